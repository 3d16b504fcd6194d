#!/bin/sh
# The launcher's tests submit jobs to a real Slurm. Debian and Ubuntu: installed here when missing and when root; the
# tests start a controller and a node of their own in a temporary folder (tests/slurm_cluster.py), and
# skip with the reason where there is no Slurm.
if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then exit 0; fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing slurmctld, slurmd, slurm-client and munge for the launcher's tests"
    # Services that are installed here are not started: policy-rc.d says no (101) meanwhile.
    rule=/usr/sbin/policy-rc.d
    [ -e "$rule" ] && rule= || { printf '#!/bin/sh\nexit 101\n' >"$rule"; chmod +x "$rule"; }
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 \
        apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; } >/dev/null 2>&1 ||
        echo "Slurm could not be installed; its tests are skipped." >&2
    [ -z "$rule" ] || rm -f "$rule"
else
    echo "The launcher's tests with Slurm need slurmctld, slurmd, slurm-client and munge; they are skipped." >&2
fi
exit 0
