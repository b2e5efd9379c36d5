#!/bin/bash
# A SLURM of two nodes on one machine, on loopback and without systemd, for tests. Needs root.
# usage: slurm_start.sh FOLDER PORT, which is the first of three free ports
set -euo pipefail
home=$1 port=$2
host=$(hostname -s)
mkdir -p "$home"/{state,spool,log,munge}
# munged refuses folders that others may write, such as /tmp: --force
dd if=/dev/urandom of="$home/munge/key" bs=1 count=1024 status=none
chmod 700 "$home/munge"
chmod 600 "$home/munge/key"
munged --force --key-file "$home/munge/key" --socket "$home/munge/socket" --pid-file "$home/munge/pid" \
  --log-file "$home/munge/log" --seed-file "$home/munge/seed"
cat > "$home/slurm.conf" <<C
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldAddr=127.0.0.1
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge/socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=100000
InactiveLimit=0
SlurmdTimeout=60
KillWait=5
MaxArraySize=3
MessageTimeout=30
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/none
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=n[1-2] MaxTime=5 State=UP
C
export SLURM_CONF=$home/slurm.conf
slurmctld -f "$SLURM_CONF"
for _ in $(seq 150); do
  scontrol ping 2> /dev/null | grep -q 'is UP' && break
  sleep 0.2
done
for node in n1 n2; do slurmd -f "$SLURM_CONF" -N $node; done
for _ in $(seq 300); do  # a node that the controller has overlooked is asked within 20 seconds
  [ "$(sinfo --noheader --Node --partition=all --states=idle 2> /dev/null | wc -l)" = 2 ] && exit
  sleep 0.2
done
echo "the nodes did not become idle; see $home/log" >&2
exit 1
