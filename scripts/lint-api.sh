#!/usr/bin/env bash
# Lints the API's document, with no call to another host. It says nothing where all
# is well.
set -euo pipefail
cd "$(dirname "$0")/../api"

[ -x node_modules/.bin/redocly ] || exit 0 # make node has said so
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
output=$(node_modules/.bin/redocly lint --config redocly.yaml openapi.yaml 2>&1) || {
	echo "$output" >&2
	exit 1
}
