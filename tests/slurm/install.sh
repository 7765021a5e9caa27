#!/bin/bash
# Install what the cluster tests need: SLURM's daemons and client, munge, iproute2, shellcheck (Debian or Ubuntu, root).
# .ci/run calls it and then sets VQLOOM_NEED_SLURM=1, with which the tests fail where they would skip themselves.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../install.sh" tests/slurm/install.sh \
    slurmctld slurmd slurm-client munge iproute2 shellcheck
