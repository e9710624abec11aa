#!/usr/bin/env bash
# Trains on several GPUs of this machine, the global batch shared among them:
#   bash launch/multi_gpu.sh 0,1,2,3 --config=configs/ho3d.py --workdir=runs/ho3d
# The first argument names the GPUs; "all" takes every one. DRY_RUN=1 only prints.
set -euo pipefail
case "${1:-}" in
  all) shift ;;
  [0-9]*)
    export CUDA_VISIBLE_DEVICES="$1"
    shift
    ;;
  *)
    echo "error: name the GPUs first, such as 0,1 or all (bash launch/multi_gpu.sh 0,1 --config=...)" >&2
    exit 2
    ;;
esac
train=(bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  echo "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-all} ${train[*]}"
  exit 0
fi
exec "${train[@]}"
