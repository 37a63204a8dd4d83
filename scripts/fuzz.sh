#!/usr/bin/env bash
# Feeds hostile input to every fuzz target of one package, one after the other, since the go
# command takes one at a time:
#
#   scripts/fuzz.sh 20s ./jobs/webhook
#
# A find stays as a seed in the package's testdata.
set -euo pipefail
cd "$(dirname "$0")/.."
time=$1 package=$2

# On a busy machine go test may take the end of its time for a failure, before Go
# 1.27 (golang/go#75804). Where it names no input, there is no find.
fuzz() {
	local log
	log=$(mktemp)
	go test -run '^$' -fuzz "^$1\$" -fuzztime "$time" "$package" | tee "$log" ||
		{ grep -q '^ *context deadline exceeded$' "$log" && ! grep -q 'Failing input' "$log"; }
	rm -f "$log"
}

for target in $(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9]+' "$package" | cut -d ' ' -f 2); do
	fuzz "$target"
done
