"""What must be settled before JAX starts, and what devices it then has.

`prepare` comes first in an entry point, before anything imports JAX.
"""

import contextlib
import ctypes
import gc
import logging
import os
import platform
import re
from pathlib import Path
from typing import Any

from homae_jax.errors import UserError

DEVICE_CHOICES = ("gpu", "any")  # of config.device
PROCESS_VARIABLES = {
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
LOST_SECONDS = 30  # without a sign of life, a process counts as lost
DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
CPU_INFO = Path("/proc/cpuinfo")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def prepare(*, deterministic: bool = False, debug_nans: bool = False) -> None:
    """Compilation cache, quiet logs and, if asked, determinism and NaN checks.

    The cache holds trusted code: it is this user's alone. What the user has set in
    the environment stays.
    """
    if deterministic and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} {DETERMINISTIC_FLAG}".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_compiled_dir()))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Traces are millions of objects that stay: by default the collector goes over all
    # of them again and again, a quarter of the time that a trace takes.
    gc.set_threshold(100_000)
    # Orbax reports every file, and traces of errors that we report ourselves.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
    if debug_nans:
        os.environ["JAX_DEBUG_NANS"] = "true"


def keep_memory() -> None:
    """On a CPU, each call of a program gets the memory of the last one again.

    XLA asks malloc for a program's buffers anew at every call. glibc takes large ones
    from the system and gives them back when they are freed, and pages that come from
    the system must be cleared: a tenth of a training step, several times that in
    virtual machines whose host takes free pages away. So, where this is glibc, freed
    memory stays in the process; and calls run in the caller's thread, as only the main
    thread's heap has room for a gigabyte. Comes before JAX's first device.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    with contextlib.suppress(RuntimeError):  # no device: `check_device` says so
        if jax.default_backend() == "cpu" and platform.libc_ver()[0] == "glibc":
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)


def _compiled_dir() -> Path:
    """Where compiled programs are kept; where it cannot be made, JAX does without."""
    folder = cache_dir() / "compiled"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def join_processes() -> None:
    """Joins the other processes of the run, found by the environment.

    By JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; without these, by what SLURM or MPI sets.
    """
    import jax

    given: dict[str, Any] = {}
    for name, variable in PROCESS_VARIABLES.items():
        if text := os.environ.get(variable):
            if not text.isdecimal():
                raise UserError(f"{variable}={text}: wants a whole number")
            given[name] = int(text)
    try:
        jax.distributed.initialize(
            **given,
            heartbeat_timeout_seconds=LOST_SECONDS,
            shutdown_timeout_seconds=LOST_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--distributed: the processes did not meet: {reason}; set "
            f"JAX_COORDINATOR_ADDRESS and {', '.join(PROCESS_VARIABLES.values())}, or "
            "start them by SLURM or MPI"
        ) from error
    if _is_alone_on_its_node() and not os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        jax.config.update("jax_cuda_visible_devices", "all")


def _is_alone_on_its_node() -> bool:
    """Whether SLURM started one process a node; JAX gives each one GPU all the same."""
    per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # "1(x2)", "4(x2),2"
    return re.fullmatch(r"1(\(x\d+\))?", per_node) is not None


def cache_dir() -> Path:
    """This user's cache: compiled programs, object templates."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "homae_jax"


def check_device(device: str, *, allow_cpu: bool) -> str:
    """Describes the devices; refuses a CPU unless the configuration is meant for it."""
    if device not in DEVICE_CHOICES:
        raise UserError(f'device="{device}": use "gpu" or "any"')
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"JAX finds no device ({reason}); unset JAX_PLATFORMS or mend the driver"
        ) from error
    if devices[0].platform != "cpu":
        return f"running on {len(devices)} x {devices[0].device_kind}"
    if device == "any" or allow_cpu:
        return "no GPU found: running on the CPU"
    raise UserError(
        "no GPU found, and this configuration is meant for one: check the driver and "
        "that JAX was installed with its CUDA extra, or pass --allow_cpu"
    )


def has_bfloat16() -> bool:
    """Whether products of bfloat16 are faster here than those of float32.

    So on NVIDIA GPUs from Ampere on, on TPUs, and on processors with AVX512-BF16, as
    Linux names their abilities; of other systems' processors it is not known.
    """
    import jax

    device = jax.devices()[0]
    if device.platform == "gpu":
        major = str(device.compute_capability).partition(".")[0]
        return major.isdecimal() and int(major) >= 8
    if device.platform != "cpu":
        return True
    try:
        return "avx512_bf16" in CPU_INFO.read_text().split()
    except OSError:
        return False
