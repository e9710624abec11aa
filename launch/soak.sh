#!/usr/bin/env bash
# Trains for long and watches memory and file handles, which must not grow:
#   bash launch/soak.sh --minutes=120
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
export JAX_PLATFORMS=cpu
exec "$PYTHON" -m tests.reliability.soak "$@"
