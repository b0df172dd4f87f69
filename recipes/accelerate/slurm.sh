#!/bin/bash
# Two machines of eight GPUs under SLURM (DDP). The same command again goes on where it stopped; SLURM's SIGTERM
# before the time limit writes a checkpoint first. Not run here: no cluster was at hand.
#   sbatch recipes/accelerate/slurm.sh RECIPE.yaml [--set key=value ...]
#SBATCH --job-name=latent-shift
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail
export MAIN_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --module \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * 8))" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MAIN_HOST" --main_process_port 29500 --mixed_precision no --dynamo_backend no \
    latent_shift train "$@"' latent-shift "$@"
