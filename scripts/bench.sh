#!/usr/bin/env bash
# bench.sh [flags…] builds the server and bench, starts a Postgres that nobody else
# uses, measures (cmd/bench), writes bench.json, and removes that Postgres again.
# BENCH=short takes some seven minutes; -h lists the flags, and -only SCENARIO,… runs
# some of the scenarios.
#
# DATABASE_URL, if set, is used instead. Without PostgreSQL binaries, the compose service is
# used, whose CPU time can't be read.
set -euo pipefail
cd "$(dirname "$0")/.."

own() { env -u DATABASE_URL POSTGRES_FOLDER=.postgres-bench POSTGRES_PORT=${BENCH_POSTGRES_PORT:-5439} scripts/postgres.sh "$@"; }

CGO_ENABLED=0 go build -tags nomsgpack -trimpath -o bin/ringback ./cmd/server
CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/bench

if [ -z "${DATABASE_URL:-}" ]; then
	if own up; then
		trap 'own clean' EXIT
		DATABASE_URL=$(own url)
	else
		scripts/postgres.sh up
		DATABASE_URL=$(scripts/postgres.sh url)
	fi
fi
export DATABASE_URL
bin/bench -out bench.json "$@"
