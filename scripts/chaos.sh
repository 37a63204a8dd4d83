#!/usr/bin/env bash
# chaos.sh [flags…] builds the server, storm and chaos, starts a Postgres that
# may be stopped and crashed, and runs cmd/chaos against it, which writes
# chaos.json. CHAOS=short is one run of 18 seconds; -h lists the flags.
#
# A run that finds something leaves its Postgres there, with a database for each
# seed: POSTGRES_FOLDER=.postgres-chaos scripts/postgres.sh clean removes it.
set -euo pipefail
cd "$(dirname "$0")/.."

unset DATABASE_URL
export POSTGRES_FOLDER=.postgres-chaos POSTGRES_PORT=${CHAOS_POSTGRES_PORT:-5438}

CGO_ENABLED=0 go build -tags nomsgpack -trimpath -o bin/ringback ./cmd/server
CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/storm ./cmd/chaos

flags=()
if [ "${CHAOS:-}" = short ]; then flags=(-seed 151 -duration 18s); fi

scripts/postgres.sh up
CHAOS_DATABASE_URL=$(scripts/postgres.sh url)
export CHAOS_DATABASE_URL
bin/chaos -out chaos.json ${flags[@]+"${flags[@]}"} "$@"
scripts/postgres.sh clean
