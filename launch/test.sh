#!/usr/bin/env bash
# Sets everything up and runs the tests:
#   bash launch/test.sh             the suite, on the CPU, offline, two or three processes
#   bash launch/test.sh --slow      the slow proofs
#   bash launch/test.sh --parity    against public implementations, which it installs
# Further arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ROOT"
export JAX_PLATFORMS=cpu
select="not slow and not parity"
# Tests of processes wait for each other: a third one has work then, where memory is.
memory_kb="$(awk '/^MemAvailable/ {print $2}' /proc/meminfo 2>/dev/null || true)"
processes=$((${memory_kb:-0} > 16000000 ? 3 : 2))
quick="--xla_backend_optimization_level=0" # to compile, which is most of the suite
case "${1:-}" in
  --slow)
    select="slow"
    processes=0
    quick=""
    shift
    ;;
  --parity)
    select="parity"
    processes=0
    quick=""
    shift
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r launch/parity.txt
    ;;
esac
# XLA's older emitters of kernels compile in two thirds of the time; new versions have
# dropped them.
older="--xla_cpu_use_fusion_emitters=false"
if [[ -n "$quick" ]]; then
  # In braces: a version that does not know the flag aborts, and the shell would say so.
  if { XLA_FLAGS="$older" "$PYTHON" -c "import jax; jax.devices()"; } &>/dev/null; then
    quick="$quick $older"
  fi
fi
export XLA_FLAGS="${XLA_FLAGS:-$quick}"
# A file's tests stay in one process, with what they have made and compiled.
exec "$PYTHON" -m pytest -n "$processes" --dist loadfile -m "$select" "$@"
