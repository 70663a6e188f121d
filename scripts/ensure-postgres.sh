#!/usr/bin/env bash
# Makes sure that the programs of a PostgreSQL server, 15 or newer, are here:
# for `webhookd dev` and for the tests, which run private servers of their own.
# Found: one line, exit 0. Not found: installs them with apt, dnf, apk or brew,
# as root or by sudo, and says each command. It starts no service, makes no
# database cluster, and leaves none of its own settings behind.
set -euo pipefail
shopt -s nullglob

oldest=15

say() { printf '%s\n' "$*"; }

die() {
	printf 'ensure-postgres: %s\n' "$*" >&2
	exit 1
}

# server DIR prints the version if DIR holds a server that is new enough.
server() {
	local version
	[[ $1 == /* && -x $1/postgres && -x $1/initdb ]] || return 1
	version=$(LC_ALL=C "$1/postgres" --version 2>/dev/null | sed -n 's/^.*(PostgreSQL) \([0-9][^ ]*\).*$/\1/p') || return 1
	[[ -n $version && ${version%%[!0-9]*} -ge $oldest ]] || return 1
	printf '%s\n' "$version"
}

# find_server prints "VERSION DIR" of the first one. internal/pgdev/find.go
# looks at the same places.
find_server() {
	local dir dirs version program
	IFS=: read -r -a dirs <<<"$PATH"
	program=$(command -v postgres || true)
	if [[ -n $program && -L $program ]]; then
		dirs+=("$(dirname "$(readlink -f "$program" 2>/dev/null || printf '%s' "$program")")")
	fi
	if command -v pg_config >/dev/null; then
		dirs+=("$(pg_config --bindir 2>/dev/null || true)")
	fi
	dirs+=(
		/usr/lib/postgresql/*/bin
		/usr/pgsql-*/bin
		/usr/libexec/postgresql*
		/usr/local/pgsql/bin
		/opt/homebrew/opt/postgresql*/bin
		/usr/local/opt/postgresql*/bin
		/home/linuxbrew/.linuxbrew/opt/postgresql*/bin
		/Applications/Postgres.app/Contents/Versions/*/bin
		/opt/local/lib/postgresql*/bin
	)
	for dir in "${dirs[@]}"; do
		if version=$(server "$dir"); then
			printf '%s %s\n' "$version" "$dir"
			return
		fi
	done
	return 1
}

# as_root CMD... says and runs a command with root's rights.
as_root() {
	if [[ $(id -u) -eq 0 ]]; then
		say "+ $*"
		"$@"
	elif command -v sudo >/dev/null; then
		say "+ sudo $*"
		sudo "$@"
	else
		die "installing PostgreSQL needs root, and there is no sudo. As root, run: $0"
	fi
}

# newest prints the highest number on standard input that is not too old.
newest() { sort -rn | awk -v oldest="$oldest" '$1 >= oldest && !found { print $1; found = 1 } END { exit !found }'; }

# Debian's packages make and start a cluster, unless told otherwise by these two
# files. They are removed again; a file that is there already stays as it is.
no_cluster=/etc/postgresql-common/createcluster.d/zz-webhookd.conf
no_service=/usr/sbin/policy-rc.d
ours=()

forget_apt_settings() {
	if [[ ${#ours[@]} -gt 0 ]]; then as_root rm -f "${ours[@]}"; fi
}

install_apt() {
	local major
	as_root apt-get update -q
	major=$(apt-cache pkgnames postgresql- | sed -n 's/^postgresql-\([0-9][0-9]*\)$/\1/p' | newest) ||
		die "this system's packages have no PostgreSQL $oldest or newer. Add the packages of postgresql.org (https://www.postgresql.org/download/linux/) and run $0 again"

	trap forget_apt_settings EXIT
	if [[ ! -e $no_cluster ]]; then
		ours+=("$no_cluster")
		as_root mkdir -p "${no_cluster%/*}"
		as_root sh -c "echo 'create_main_cluster = false' > $no_cluster"
	fi
	if [[ ! -e $no_service ]]; then
		ours+=("$no_service")
		as_root sh -c "printf '#!/bin/sh\nexit 101\n' > $no_service && chmod 755 $no_service"
	fi
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "postgresql-$major"
	trap - EXIT
	forget_apt_settings
}

# Red Hat's packages make no cluster and start nothing. Where the default is too
# old, newer ones are in module streams.
install_dnf() {
	local major
	major=$(dnf -q repoquery --latest-limit=1 --qf '%{version}\n' postgresql-server 2>/dev/null | sed -n 's/^\([0-9][0-9]*\).*/\1/p' | newest) || {
		major=$(dnf -q module list postgresql 2>/dev/null | sed -n 's/^postgresql  *\([0-9][0-9]*\) .*/\1/p' | newest) ||
			die "this system's packages have no PostgreSQL $oldest or newer. Add the packages of postgresql.org (https://www.postgresql.org/download/linux/redhat/) and run $0 again"
		as_root dnf -y module reset postgresql
		as_root dnf -y module enable "postgresql:$major"
	}
	as_root dnf -y install postgresql-server
}

# Alpine's packages make no cluster and start nothing.
install_apk() {
	local major
	as_root apk update -q
	major=$(apk search -q postgresql | sed -n 's/^postgresql\([0-9][0-9]*\)$/\1/p' | newest) ||
		die "this system's packages have no PostgreSQL $oldest or newer. Move to a newer Alpine, and run $0 again"
	as_root apk add -q "postgresql$major"
}

# Homebrew makes a cluster after installing, which can be left out for this
# version: newer ones do what they need to run in the same step.
install_brew() {
	[[ $(id -u) -ne 0 ]] || die "Homebrew refuses to run as root. As an ordinary user, run: $0"
	say "+ brew install --only-dependencies postgresql@16"
	brew install --only-dependencies postgresql@16
	say "+ brew install --skip-post-install postgresql@16"
	brew install --skip-post-install postgresql@16
}

if found=$(find_server); then
	say "PostgreSQL ${found%% *} is in ${found#* }"
	exit 0
fi

say "No PostgreSQL $oldest or newer found: installing the server's programs (no service, no cluster)."
if command -v apt-get >/dev/null; then
	install_apt
elif command -v dnf >/dev/null; then
	install_dnf
elif command -v apk >/dev/null; then
	install_apk
elif command -v brew >/dev/null; then
	install_brew
else
	die "no apt-get, dnf, apk or brew here. Install PostgreSQL $oldest or newer (https://www.postgresql.org/download/), put the folder with postgres and initdb on PATH, and run $0 again"
fi
found=$(find_server) || die "the packages are installed, but no server is found. Put the folder with postgres and initdb on PATH, and run $0 again"
say "PostgreSQL ${found%% *} is in ${found#* }"
