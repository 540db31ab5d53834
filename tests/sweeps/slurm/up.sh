#!/usr/bin/env bash
# A Slurm cluster on this machine alone, for tests: up.sh DIR, as root; down.sh DIR ends it.
#
# Needs slurm-wlm and munge; with slurmdbd and mariadb-server there is accounting too. Neither systemd nor cgroups are
# needed, nothing outside DIR is written, and every port and key is its own. Run again it does nothing. DIR must be a
# folder that the users munge and mysql can enter (not one below a private temporary folder).
# On success DIR/env.sh sets what Slurm's commands need.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
dir=$(realpath -m "$1")
host=$(hostname -s)
export PATH=$PATH:/usr/sbin:/sbin

[ -e "$dir/env.sh" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "only root can start this cluster" >&2; exit 1; }
for program in slurmctld slurmd munged; do
  command -v $program >/dev/null || { echo "$program is not installed (apt-get install slurm-wlm munge)" >&2; exit 1; }
done
accounting=no
if command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null; then accounting=yes; fi
trap '[ $? = 0 ] || "$here/down.sh" "$dir"' EXIT

mkdir -p "$dir"/{spool,state,log,run,db,dbrun}
chmod 755 "$dir"
chown munge "$dir/run"

taken=" "
free_port() { # prints nothing; sets $port
  while port=$((20000 + RANDOM % 20000)); do
    [[ $taken != *" $port "* ]] || continue
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { taken+="$port "; return 0; }
  done
}
wait_for() { # wait_for SECONDS WHAT COMMAND...
  local tries=$(($1 * 10)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "$what did not start; its log:" >&2; tail -n 20 "$dir/log/$what.log" >&2; exit 1; }
    sleep 0.1
  done
}
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

free_port; ctld_port=$port
free_port; slurmd_port=$port
free_port; dbd_port=$port
free_port; db_port=$port

# ---------------------------------------------------------------------------------------------------------- munge
(umask 077; head -c 128 /dev/urandom >"$dir/munge.key")
touch "$dir/log/munged.log"
chown munge "$dir/munge.key" "$dir/log/munged.log"
munge_options=(--key-file="$dir/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid"
  --log-file="$dir/log/munged.log" --seed-file="$dir/run/munge.seed")
# --force: it otherwise refuses a log folder that is not its own.
runuser -u munge -- munged --force "${munge_options[@]}" 2>>"$dir/log/munged.log"
wait_for 20 munged test -S "$dir/run/munge.sock"

# -------------------------------------------------------------------------------------------------------- accounting
accounting_lines="AccountingStorageType=accounting_storage/none"
if [ $accounting = yes ]; then
  accounting_lines="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$dbd_port
AccountingStoragePass=$dir/run/munge.sock
AccountingStorageEnforce=associations,limits"
  chown mysql "$dir/db" "$dir/dbrun"
  mariadb-install-db --user=mysql --datadir="$dir/db" --auth-root-authentication-method=socket --skip-test-db \
    >"$dir/log/install.log" 2>&1
  setsid mariadbd --no-defaults --user=mysql --datadir="$dir/db" --socket="$dir/dbrun/my.sock" \
    --bind-address=127.0.0.1 --port=$db_port --pid-file="$dir/dbrun/my.pid" --innodb-buffer-pool-size=32M \
    >"$dir/log/mariadbd.log" 2>&1 </dev/null &
  wait_for 60 mariadbd mariadb -S "$dir/dbrun/my.sock" -e 'select 1'
  mariadb -S "$dir/dbrun/my.sock" -e "create database slurm_acct_db;
    create user slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost"
  (umask 077; cat >"$dir/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
DbdAddr=127.0.0.1
DbdHost=$host
DbdPort=$dbd_port
SlurmUser=root
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$db_port
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
fi

# ------------------------------------------------------------------------------------------------------------- slurm
# Four CPUs whatever the machine has, so that the tests always meet the same cluster. Jobs may be preempted in spot
# with 10 s to save and in spot0 with none; four tasks exceed MaxArraySize.
cat >"$dir/slurm.conf" <<CONF
ClusterName=mini
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=0
KillWait=3
OverTimeLimit=0
MaxArraySize=3
MaxJobCount=1000
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$accounting_lines
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=spot Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10 PreemptMode=REQUEUE
PartitionName=spot0 Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0 PreemptMode=REQUEUE
CONF
export SLURM_CONF=$dir/slurm.conf
if [ $accounting = yes ]; then
  slurmdbd
  wait_for 60 slurmdbd answers $dbd_port
  sacctmgr --immediate add cluster mini >"$dir/log/sacctmgr.log" 2>&1
fi
slurmctld
wait_for 30 slurmctld answers $ctld_port
slurmd
is_idle() { sinfo --noheader --format=%T | grep -qx idle; }
wait_for 60 slurmd is_idle
echo "export SLURM_CONF=$dir/slurm.conf" >"$dir/env.sh"
