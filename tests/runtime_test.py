"""Devices and variables that have to be settled before JAX starts."""

import os
import platform
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from homae_jax import runtime
from homae_jax.errors import UserError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_prepare_sets_the_deterministic_flag_only_when_asked(monkeypatch):
    runtime.prepare()
    assert "XLA_FLAGS" not in os.environ
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    runtime.prepare(deterministic=True)
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_cpu_enable_fast_math=false",
        runtime.DETERMINISTIC_FLAG,
    ]


def test_prepare_makes_a_cache_that_only_its_owner_can_enter(tmp_path):
    runtime.prepare()
    folder = tmp_path / "homae_jax" / "compiled"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o077 == 0


def test_prepare_leaves_the_users_cache_alone(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    runtime.prepare()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"


def test_check_device_refuses_a_cpu_for_a_gpu_configuration():
    with pytest.raises(UserError, match="or pass --allow_cpu"):
        runtime.check_device("gpu", allow_cpu=False)


@pytest.mark.parametrize(("device", "allow_cpu"), [("any", False), ("gpu", True)])
def test_check_device_goes_on_where_a_cpu_is_allowed(device, allow_cpu):
    assert "no GPU" in runtime.check_device(device, allow_cpu=allow_cpu)


def test_prepare_goes_on_where_no_cache_can_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    runtime.prepare()


def test_check_device_refuses_an_unknown_device():
    with pytest.raises(UserError, match='device="tpu": use "gpu" or "any"'):
        runtime.check_device("tpu", allow_cpu=True)


class Device(NamedTuple):
    platform: str
    compute_capability: str = ""


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        (Device("cpu"), "fpu avx512f avx512_bf16 sse", True),
        (Device("cpu"), "fpu avx512f avx512_bf16x", False),
        (Device("cpu"), None, False),
        (Device("gpu", "7.5"), "avx512_bf16", False),
        (Device("gpu", "8.6"), "", True),
        (Device("gpu", "12.0"), "", True),
        (Device("gpu", "gfx90a"), "", False),
        (Device("tpu"), "", True),
    ],
    ids=str,
)
def test_has_bfloat16_by_device(device, flags, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(runtime, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags\t\t: {flags}\n\n")
    assert runtime.has_bfloat16() == expected


FAULTS = """
import resource, sys
from homae_jax import runtime
if sys.argv[1] == "kept":
    runtime.keep_memory()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: x + 1)
x = program(jnp.ones(2**25))
def call():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(program(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([call() for _ in range(5)][1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_program_gets_the_memory_of_its_last_call_again():
    """In one process of three: jax 0.12 now and then takes it in another thread."""
    assert min(faults_of_a_call("kept") for _ in range(3)) < 50
    assert faults_of_a_call("given back") > 10_000


def faults_of_a_call(kind: str) -> int:
    """Page faults of a call whose result has 128 MiB, in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", FAULTS, kind]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


def test_where_there_is_no_device_the_memory_is_left_alone(monkeypatch):
    def no_device():
        raise RuntimeError("no device")

    monkeypatch.setattr(jax, "default_backend", no_device)
    monkeypatch.setattr(platform, "libc_ver", pytest.fail)
    settings = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: settings.append(setting))
    runtime.keep_memory()
    assert settings == [("jax_cpu_enable_async_dispatch", False)]


@pytest.mark.parametrize(
    ("per_node", "visible"),
    [("1(x2)", "all"), ("1", "all"), ("4(x2)", "0"), ("1,2", "0"), ("", "0")],
)
def test_a_process_alone_on_its_node_has_all_its_gpus(monkeypatch, per_node, visible):
    """JAX takes the GPU of SLURM_LOCALID for a process, however many there are."""

    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)

    def initialize(**_):
        jax.config.update("jax_cuda_visible_devices", "0")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", per_node)
    runtime.join_processes()
    assert settings == {"jax_cuda_visible_devices": visible}
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0")  # one's own choice stays
    runtime.join_processes()
    assert settings == {"jax_cuda_visible_devices": "0"}
