#!/bin/bash
# Certify on all nodes of a Slurm job, with Ray between them:
#
#     sbatch examples/cluster/slurm.sh kws.yaml runs/kws --limit 300
#
# Environment, config, weights, clips and the run directory lie on a file system that all nodes share. Submit
# the same line again to go on after a time limit; what is recorded is not done again.

#SBATCH --job-name=soundcert
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --no-kill

set -euo pipefail

config=${1:?usage: sbatch slurm.sh CONFIG OUT [options of soundcert certify]}
out=${2:?usage: sbatch slurm.sh CONFIG OUT [options of soundcert certify]}
shift 2

# shellcheck disable=SC1091
source "${SOUNDCERT_ENV:-.venv}/bin/activate"

# A job has a port, a folder and a password of its own: several jobs may share a node.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
address=$head:$port
others=$((SLURM_JOB_NUM_NODES - 1))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" --include-dashboard=false &

for _ in $(seq 60); do
  ray health-check --address="$address" >/dev/null 2>&1 && break
  sleep 2
done

if ((others > 0)); then
  srun --no-kill --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --block --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" &
fi

# Workers that are asked for before their node has joined wait for it.
soundcert certify "$config" --out "$out" --resume --executor ray --address "$address" \
  --workers $((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK)) "$@"
