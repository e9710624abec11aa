#!/usr/bin/env bash
# Kills a training at random moments and compares what comes out with an untouched run:
#   bash launch/torture.sh --kills=50
#   bash launch/torture.sh --kills=200 --training=toy --engine=pmap
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
export JAX_PLATFORMS=cpu
exec "$PYTHON" -m tests.reliability.torture "$@"
