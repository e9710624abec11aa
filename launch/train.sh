#!/usr/bin/env bash
# Sets everything up and trains:  bash launch/train.sh --config=configs/synthetic.py
# All arguments go to `python -m homae_jax.train` (--help lists them).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$PYTHON" -m homae_jax.train "$@"
