#!/usr/bin/env bash
# Damaged and hostile files for every reader; each must give a value or one clear line:
#   bash launch/fuzz.sh --inputs=100000
#   bash launch/fuzz.sh --inputs=5000 --parsers=ho3d_meta,pictures
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
export JAX_PLATFORMS=cpu
exec "$PYTHON" -m tests.reliability.fuzz "$@"
