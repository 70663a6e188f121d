#!/usr/bin/env bash
# Makes sure that a program is here, by a package of Debian's if it is not:
#
#   scripts/ensure-package.sh PROGRAM PACKAGE
#
# Starts no service, and leaves no setting behind.
set -euo pipefail

program=$1 package=$2
if command -v "$program" >/dev/null; then
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "$0: there is no $program, and no apt-get to install it with: put $program on PATH" >&2
	exit 1
fi
root=()
if [[ $(id -u) -ne 0 ]]; then root=(sudo); fi

# Debian starts what it installs, unless this file says no.
no_service=/usr/sbin/policy-rc.d
if [[ ! -e $no_service ]]; then
	trap '"${root[@]}" rm -f $no_service' EXIT
	printf '#!/bin/sh\nexit 101\n' | "${root[@]}" install -m 755 /dev/stdin $no_service
fi
echo "no $program found: installing the package $package (no service is started)"
"${root[@]}" apt-get update -q >/dev/null
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package" >/dev/null
command -v "$program" >/dev/null
