# Sourced by the other scripts: makes .venv if it is absent, installs what is needed,
# and leaves the interpreter's path in $PYTHON. The caller's folder stays the current
# one, so that relative paths on its command line mean what they say.
#
# HOMAE_PYTHON=python3.12  chooses the interpreter the environment is made from.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
PYTHON="$ROOT/.venv/bin/python"

# Large pages for what glibc's malloc hands out: XLA's buffers are gigabytes, which a
# process gets and a CPU finds more quickly in pages of 2 MiB than of 4 KiB.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  if [ -n "${HOMAE_PYTHON:-}" ]; then
    if is_new_enough "$HOMAE_PYTHON"; then
      echo "$HOMAE_PYTHON"
      return
    fi
    echo "error: HOMAE_PYTHON=$HOMAE_PYTHON is no Python >= 3.11" >&2
    exit 2
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python >= 3.11 found; install one, or set HOMAE_PYTHON=/path/to/python" >&2
  exit 2
}

has_nvidia_driver() {
  command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1
}

# requirements.txt as it is where a GPU answers; else without the CUDA wheels.
requirements() {
  if has_nvidia_driver; then
    cat requirements.txt
  else
    sed 's/^jax\[cuda12\]/jax/' requirements.txt
  fi
}

no_pip() {
  echo "error: .venv has no pip: install your system's python3-venv (or set" \
    "HOMAE_PYTHON=/path/to/another/python), remove .venv and start again" >&2
  exit 2
}

is_installed() {
  [ -f "$ROOT/.venv/.installed" ] && [ "$(cat "$ROOT/.venv/.installed")" = "$1" ]
}

install() {
  local wanted
  wanted="$(requirements | cksum)"
  if is_installed "$wanted"; then
    return
  fi
  # Of several that start at once, as a sweep's, one installs and the others wait.
  mkdir -p .venv
  exec 9> .venv/.lock
  if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
    echo "waiting for another start, which installs"
    flock 9 || true # some network drives have no locks
    if is_installed "$wanted"; then
      exec 9>&-
      return
    fi
  fi
  if [ ! -x "$PYTHON" ]; then
    local base
    base="$(find_python)"
    echo "making .venv with $("$base" --version)"
    "$base" -m venv .venv || no_pip
  fi
  # An interrupted start, and Debian without python3-venv, leave one without pip.
  "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip >/dev/null 2>&1 || no_pip
  echo "installing requirements"
  requirements > .venv/requirements.txt
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt
  echo "$wanted" > .venv/.installed
  exec 9>&-
}

(cd "$ROOT"; install)
