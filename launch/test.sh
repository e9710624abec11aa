#!/usr/bin/env bash
# Sets everything up and runs the tests:
#   bash launch/test.sh             the suite, on the CPU, offline, two processes
#   bash launch/test.sh --slow      the slow proofs
#   bash launch/test.sh --parity    against public implementations, which it installs
# Further arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export JAX_PLATFORMS=cpu
select="not slow and not parity"
processes=2
case "${1:-}" in
  --slow)
    select="slow"
    processes=0
    shift
    ;;
  --parity)
    select="parity"
    processes=0
    shift
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r launch/parity.txt
    ;;
esac
exec "$PYTHON" -m pytest -n "$processes" -m "$select" "$@"
