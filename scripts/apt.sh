#!/usr/bin/env bash
# apt.sh package… installs Debian packages, where that takes no question: apt is
# there, and the caller is root or may become root without a password. Else it exits 1 in
# silence: only the caller knows the purpose of the package.
set -euo pipefail

command -v apt-get >/dev/null || exit 1
if [ "$(id -u)" != 0 ]; then
	sudo -n true 2>/dev/null || exit 1
	exec sudo -n "$0" "$@"
fi

echo "apt: installing $*" >&2
export DEBIAN_FRONTEND=noninteractive

# Debian's postgresql would create and start a cluster of its own, as a service.
settings=/etc/postgresql-common/createcluster.d
mkdir -p "$settings"
echo 'create_main_cluster = false' >"$settings/ringback.conf"
# Other packages would start their services: none may meanwhile, unless the machine has a
# policy of its own.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] && policy= || install -m 755 /dev/stdin "$policy" <<<$'#!/bin/sh\nexit 101'
trap restore EXIT

restore() {
	[ -z "$policy" ] || rm -f "$policy"
	rm "$settings/ringback.conf"
	# The folder belongs to the package postgresql-common, which may not have been
	# installed.
	[ -e /etc/postgresql-common/createcluster.conf ] || rmdir -p --ignore-fail-on-non-empty "$settings"
}

install_all() {
	# A new machine is often busy with its own first upgrade: wait for the lock.
	apt-get -o DPkg::Lock::Timeout=120 install -qq --no-install-recommends "$@" </dev/null 2>&1
}

# Package lists may be absent, or too old to be served: refresh them on failure.
install_all "$@" >/dev/null || output=$(apt-get update -qq 2>&1 && install_all "$@") || {
	echo "$output" >&2
	exit 1
}
