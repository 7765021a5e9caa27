#!/bin/bash
# Install what the cluster tests need: SLURM's daemons and client, munge, iproute2, shellcheck (Debian or Ubuntu, root).
# .ci/run calls it and then sets VQLOOM_NEED_SLURM=1, with which the tests fail where they would skip themselves.
set -eu
wanted=(slurmctld slurmd slurm-client munge iproute2 shellcheck)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "tests/slurm/install.sh: all there"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/slurm/install.sh: ${missing[*]} missing, and only root can install them" >&2
    exit 1
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
