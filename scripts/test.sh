#!/usr/bin/env bash
# test.sh [packages…] runs the tests with the race detector; DATABASE_URL is the database.
set -euo pipefail
cd "$(dirname "$0")/.."

CGO_ENABLED=1 exec go test -tags nomsgpack -race -shuffle=on -timeout 60m "${@:-./...}"
