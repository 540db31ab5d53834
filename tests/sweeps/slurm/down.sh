#!/usr/bin/env bash
# Ends the cluster that up.sh DIR started, jobs first, and waits until no process of it is left: down.sh DIR.
# Harmless if it is half up or already down. The folder and its logs stay.
set -uo pipefail

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$(realpath -m "$1")
export SLURM_CONF=$dir/slurm.conf PATH=$PATH:/usr/sbin:/sbin
rm -f "$dir/env.sh"

runs() { readlink "/proc/$1/exe" >/dev/null; } # not a zombie that nobody has buried
end() { # end PIDFILE: asks, waits 3 s, then makes it end: nothing of it is worth a longer goodbye
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null
  for _ in $(seq 30); do runs "$pid" || break; sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null
  rm -f "$1"
}

if [ -e "$dir/run/slurmctld.pid" ]; then
  timeout 10 scancel --signal=KILL --full --user="$(id -u)" >/dev/null 2>&1
  timeout 10 scancel --user="$(id -u)" >/dev/null 2>&1
  for _ in $(seq 50); do [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ] || break; sleep 0.2; done
fi
# What is left of jobs (a node that was down lets go of them early) is known by the cluster it belongs to.
mine=" $$ "
for ((pid = $$; pid > 1; )); do pid=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status"); mine+="$pid "; done
for file in $(grep -lsF "$dir/slurm.conf" /proc/[0-9]*/environ); do
  pid=${file#/proc/} pid=${pid%/environ}
  [[ $mine == *" $pid "* ]] || [[ $(cat "/proc/$pid/comm" 2>/dev/null) =~ ^slurm(d|ctld|dbd)$ ]] ||
    kill -KILL "$pid" 2>/dev/null
done
end "$dir/run/slurmd.pid"
end "$dir/run/slurmctld.pid"
end "$dir/run/slurmdbd.pid"
end "$dir/dbrun/my.pid"
end "$dir/run/munged.pid"
exit 0
