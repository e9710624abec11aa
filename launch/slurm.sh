#!/usr/bin/env bash
# One training on several nodes under SLURM, one process per node, all its GPUs:
#   sbatch --nodes=2 --gpus-per-node=4 launch/slurm.sh --config=configs/ho3d.py \
#       --config.data.root=/data/HO3D_v2 --workdir=runs/ho3d
# JAX finds the other processes through SLURM's own variables.
#SBATCH --job-name=homae
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --signal=TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
srun bash launch/train.sh --distributed "$@"
