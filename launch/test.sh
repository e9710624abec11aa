#!/usr/bin/env bash
# Sets everything up and runs the tests:
#   bash launch/test.sh             the suite, on the CPU, offline
#   bash launch/test.sh --slow      the slow proofs
#   bash launch/test.sh --parity    against public implementations, which it installs
# Further arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export JAX_PLATFORMS=cpu
select="not slow and not parity"
case "${1:-}" in
  --slow)
    select="slow"
    shift
    ;;
  --parity)
    select="parity"
    shift
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r launch/parity.txt
    ;;
esac
exec "$PYTHON" -m pytest -m "$select" "$@"
