#!/usr/bin/env bash
# lint-operate.sh checks the alert rules and the systemd unit of scripts/operate, each where
# its program is on this machine.
set -euo pipefail
cd "$(dirname "$0")/operate"

if command -v promtool >/dev/null; then
	promtool check rules alerts.yaml >/dev/null
	promtool test rules alerts_test.yaml >/dev/null
fi
if command -v systemd-analyze >/dev/null; then
	folder=$(mktemp -d)
	trap 'rm -rf "$folder"' EXIT
	# The program that it starts needn't be installed.
	sed 's|^ExecStart=.*|ExecStart=/bin/true|' ringback.service >"$folder/ringback.service"
	# An unknown key is told, and no error.
	if told=$(systemd-analyze verify --man=no "$folder/ringback.service" 2>&1) && ! grep "^$folder" <<<"$told"; then
		exit 0
	fi
	echo "$told" >&2
	exit 1
fi
