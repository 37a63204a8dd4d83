#!/usr/bin/env bash
# chaos.sh [flags…] builds the server and chaos, and runs cmd/chaos, which
# starts a Postgres that may be stopped and crashed, and writes chaos.json.
# CHAOS=short is one run of 18 seconds; -h lists the flags.
#
# A run that finds something leaves its Postgres there until the next, with a database
# for each seed, in .postgres-chaos or, after a failover, in .postgres-chaos-standby:
# POSTGRES_FOLDER=.postgres-chaos scripts/postgres.sh clean removes the first of them.
set -euo pipefail
cd "$(dirname "$0")/.."

unset DATABASE_URL
export POSTGRES_FOLDER=.postgres-chaos POSTGRES_PORT=${CHAOS_POSTGRES_PORT:-5438}

CGO_ENABLED=0 go build -tags nomsgpack -trimpath -o bin/ringback ./cmd/server
CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/chaos

flags=()
if [ "${CHAOS:-}" = short ]; then flags=(-seed 306 -duration 18s -from ""); fi

clean() {
	POSTGRES_FOLDER=.postgres-chaos-standby scripts/postgres.sh clean
	scripts/postgres.sh clean
}

[ ! -e .postgres-chaos ] || clean # of an earlier run
bin/chaos -out chaos.json ${flags[@]+"${flags[@]}"} "$@"
clean
