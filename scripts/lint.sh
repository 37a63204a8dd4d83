#!/usr/bin/env bash
# Lints the Go code with the tools of scripts/tools/go.mod, and says nothing where all is
# well: gofumpt (form), staticcheck (mistakes; staticcheck.conf has the rules), govulncheck
# (known vulnerabilities in functions that the code calls).
#
#   scripts/lint.sh          checks
#   scripts/lint.sh test     checks, and only tells of vulnerabilities: a tree that passed
#                            yesterday doesn't fail since somebody else's code has a hole
#   scripts/lint.sh format   formats
set -euo pipefail
cd "$(dirname "$0")/.."
readonly tools=bin/tools folders='api cmd db internal jobs work'

main() {
	build || {
		not_tested "the lint of the Go code, since its tools could not be fetched or built: $(tail -n 1 <<<"$output")"
		without_tools "${1:-}"
		return
	}
	case ${1:-} in
	format) "$tools/gofumpt" -l -w $folders ;;
	test) check_code && { check_vulnerabilities || true; } ;;
	'') check_code && check_vulnerabilities ;;
	*) echo "usage: scripts/lint.sh [test | format]" >&2 && exit 2 ;;
	esac
}

# The go command leaves alone programs that are up to date.
build() { output=$(CGO_ENABLED=0 go build -modfile=scripts/tools/go.mod -o "$tools/" tool 2>&1); }

without_tools() {
	case $1 in
	format) gofmt -l -w $folders ;;
	*) check_form gofmt ;;
	esac
}

check_code() { check_form "$tools/gofumpt" && "$tools/staticcheck" -tags nomsgpack ./... >&2; }

check_form() {
	local unformatted
	unformatted=$("$1" -l $folders)
	[ -z "$unformatted" ] || { printf 'not formatted, run make fmt:\n%s\n' "$unformatted" >&2 && return 1; }
}

# A vulnerability in a module is ours to mend in go.mod. One in the standard library is
# mended by a newer Go on this machine, so it is told, and fails nothing.
check_vulnerabilities() {
	local status=0 report
	report=$("$tools/govulncheck" -tags nomsgpack ./... 2>&1) || status=$?
	case $status in
	0) ;;
	3)
		echo "$report" >&2
		! grep -q '^ *Module: ' <<<"$report"
		;;
	*) not_tested "known vulnerabilities, since govulncheck can't tell: $(tail -n 1 <<<"$report")" ;;
	esac
}

not_tested() { printf '\nNOT TESTED: %s\n\n' "$*" >&2; }

main "$@"
