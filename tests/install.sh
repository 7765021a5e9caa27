#!/bin/bash
# Install Debian packages that tests need and that aren't there: bash tests/install.sh WHO PACKAGE… (Debian or Ubuntu, root).
# WHO is the script that asks, for messages.
set -eu
who=$1
shift
missing=()
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "$who: all there"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "$who: ${missing[*]} missing, and only root can install them" >&2
    exit 1
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
