#!/bin/bash
# Install the S3 server of the tests: OpenStack Swift with its S3 interface, and memcached (Debian or Ubuntu, root).
# .ci/run calls it and then sets VQLOOM_NEED_S3=1, with which the tests fail where they would skip themselves.
set -eu
wanted=(swift swift-proxy swift-account swift-container swift-object memcached)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "tests/s3/install.sh: all there"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/s3/install.sh: ${missing[*]} missing, and only root can install them" >&2
    exit 1
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
