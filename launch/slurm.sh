#!/usr/bin/env bash
# One training on several nodes under SLURM, one process per node, all its GPUs:
#   sbatch --nodes=2 --gpus-per-node=4 launch/slurm.sh --config=configs/ho3d.py \
#       --config.data.root=/data/HO3D_v2 --workdir=runs/ho3d
# JAX finds the other processes through SLURM's own variables. DRY_RUN=1 only prints:
#   DRY_RUN=1 bash launch/slurm.sh --config=configs/ho3d.py
#SBATCH --job-name=homae
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --signal=TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
train=(-m homae_jax.train --distributed "$@")
if [ -n "${DRY_RUN:-}" ]; then
  echo "srun --cpus-per-task=${SLURM_CPUS_PER_TASK:-16} .venv/bin/python ${train[*]}"
  exit 0
fi
# Once, before there are several processes: they share the folder.
source launch/setup.sh
# Since SLURM 22.05 srun does not inherit the CPUs of a task.
exec srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-16}" "$PYTHON" "${train[@]}"
