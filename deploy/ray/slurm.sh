#!/usr/bin/env bash
# A run under SLURM: the trainer on the first node's first GPU, a worker on every other GPU of the allocation.
#   sbatch deploy/ray/slurm.sh RECIPE [flags of diffpo train]
# A job that is queued again goes on from its last checkpoint: its folder is the recipe's output, on a shared disk.
#SBATCH --job-name=diffpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail

recipe=$1
shift
gpus=${SLURM_GPUS_ON_NODE:-8}
nodes=$SLURM_JOB_NUM_NODES
workers=$((nodes * gpus - 1))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(openssl rand -hex 32)

# The first GPU of the head is the trainer's own, whom Ray does not know: Ray is started on the others.
others=$(seq -s, 1 $((gpus - 1)))
srun --nodes=1 --ntasks=1 --overlap -w "$head" env CUDA_VISIBLE_DEVICES="$others" \
    ray start --head --port=6379 --block &
sleep 20
if ((nodes > 1)); then
    srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --overlap --exclude="$head" \
        ray start --address="$head:6379" --block &
    sleep 20
fi

# exec: the TERM before the end of the allocation reaches the trainer alone, which leaves a checkpoint
exec srun --nodes=1 --ntasks=1 --overlap -w "$head" env CUDA_VISIBLE_DEVICES=0 \
    diffpo train "$recipe" --rollout.workers "$workers" --rollout.address "$head:6379" --load.device cuda --resume "$@"
