#!/usr/bin/env bash
# test.sh [packages…] runs the tests with the race detector; DATABASE_URL is the database.
#
# The detector itself breaks now and then in a package with many goroutines
# ("ThreadSanitizer: CHECK failed", or a segmentation violation outside Go code, which tells a
# PC and is no panic), before any test has failed. That says nothing of the code, so such a
# package is tested once more.
set -euo pipefail
cd "$(dirname "$0")/.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT

run() { CGO_ENABLED=1 go test -tags nomsgpack -race -shuffle=on -timeout 60m "$@" 2>&1 | tee "$output"; }

run "${@:-./...}" && exit
grep -Eq '^(ThreadSanitizer: CHECK failed|SIGSEGV: segmentation violation$)' "$output" && ! grep -q '^ *--- FAIL' "$output" || exit 1
broken=$(sed -n 's/^FAIL\t\(ringback[^\t ]*\).*/\1/p' "$output")
echo "the race detector broke in $broken, which is tested again" >&2
run $broken
