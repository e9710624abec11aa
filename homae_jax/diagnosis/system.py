"""Checks of the machine and of the files a run needs: versions, devices, cache, data.

Each check returns findings and raises nothing: a doctor that dies is of no use. A
finding that is not ok says in one line what to do.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_collections

from homae_jax import runtime
from homae_jax.data import dexycb_files
from homae_jax.errors import UserError

Level = Literal["ok", "note", "error"]
MIN_PYTHON = (3, 11)
PACKAGES = {  # distribution -> lowest version
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "flax": "0.12",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12",
    "grain": "0.2.18",
    "numpy": "2.0",
    "opencv-python-headless": "4.10",
    "trimesh": "4.5",
    "safetensors": "0.5",
    "scipy": "1.14",
    "pillow": "11.0",
    "imagecodecs": "2025.3",
    "tensorboardX": "2.6.2",
}
EXTRAS = {"flatbuffers": "export writes no programs without it"}  # missing: a note
MIN_FREE_GB = 5.0  # of the cache's and the workdir's disk
MIN_MEMORY_GB = 4.0
MARKS = {"ok": "ok   ", "note": "note ", "error": "ERROR"}


class Finding(NamedTuple):
    """One line of the report."""

    level: Level
    what: str
    advice: str = ""  # what to do; empty where nothing is to be done


def check_all(config: ml_collections.ConfigDict | None = None) -> list[Finding]:
    """Every check that needs no argument, and those of a configuration's files."""
    checks: list[Callable[[], Sequence[Finding]]] = [
        check_python,
        check_packages,
        check_devices,
        check_arithmetic,
        check_memory,
        check_cache,
        check_video,
        check_shipped,
    ]
    if config is None:
        checks.append(name_the_rest)
    else:
        checks += [
            lambda: check_mano(config),
            lambda: check_encoder(config),
            lambda: check_data(config),
        ]
    return [finding for check in checks for finding in _guarded(check)]


def _guarded(check: Callable[[], Sequence[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # the doctor goes on, whatever a check meets
        name = getattr(check, "__name__", "a check")
        reason = (str(error).splitlines() or [""])[0][:200]
        yield Finding("error", f"{name} failed: {type(error).__name__}: {reason}")


def format_findings(findings: Sequence[Finding], *, colour: bool = False) -> str:
    """The report: a line for each finding, advice indented below it."""
    lines = []
    for finding in findings:
        mark = MARKS[finding.level]
        if colour:
            code = {"ok": 32, "note": 33, "error": 31}[finding.level]
            mark = f"\x1b[{code}m{mark}\x1b[0m"
        lines.append(f"{mark}  {finding.what}")
        if finding.advice:
            lines.append(f"       -> {finding.advice}")
    errors = sum(finding.level == "error" for finding in findings)
    lines.append(f"{len(findings)} checks, {errors} errors")
    return "\n".join(lines)


def check_python() -> list[Finding]:
    """The interpreter and the system."""
    version = ".".join(map(str, sys.version_info[:3]))
    what = f"Python {version} on {platform.system()} {platform.machine()}"
    if sys.version_info < MIN_PYTHON:
        return [Finding("error", what, "install Python >= 3.11")]
    return [Finding("ok", what)]


def check_packages() -> list[Finding]:
    """What is installed against the lowest versions that work."""
    found, findings = [], []
    for name, lowest in PACKAGES.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding("error", f"{name} is missing", _INSTALL))
            continue
        found.append(f"{name} {version}")
        if _numbers(version) < _numbers(lowest):
            what = f"{name} {version} is older than {lowest}"
            findings.append(Finding("error", what, _INSTALL))
    versions = {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib")
        if f"{name} " in " ".join(found)
    }
    if len(set(versions.values())) > 1:
        what = f"jax {versions['jax']} and jaxlib {versions['jaxlib']} differ"
        findings.append(Finding("error", what, _INSTALL))
    for name, loss in EXTRAS.items():
        if importlib.util.find_spec(name) is None:
            advice = f"{_INSTALL}, or pip install {name}"
            findings.append(Finding("note", f"{name} is missing: {loss}", advice))
    return [Finding("ok", ", ".join(found)), *findings]


_INSTALL = "pip install -r requirements.txt"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def check_devices() -> list[Finding]:
    """What JAX computes on; a GPU that it does not use is an error."""
    import jax

    devices = jax.devices()
    kinds = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    gpus = nvidia_gpus()
    if devices[0].platform == "cpu" and gpus:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        advice = (
            f"JAX_PLATFORMS={chosen} keeps JAX off it: unset it"
            if chosen and "cuda" not in chosen and "gpu" not in chosen
            else 'pip install -U "jax[cuda12]", and see that the driver is >= 525'
        )
        what = f"JAX runs on the CPU although there is {gpus[0]}"
        return [Finding("error", what, advice)]
    findings = [Finding("ok", f"JAX computes on {kinds}")]
    if devices[0].platform == "cpu":
        advice = (
            "fine for predict and configs/synthetic.py, too slow for configs/ho3d.py"
        )
        findings.append(Finding("note", "no GPU here", advice))
    return findings


def nvidia_gpus() -> list[str]:
    """GPUs that the driver names, whatever JAX sees."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=20, check=False
        )
        if done.returncode == 0:
            return [
                line.split(" (UUID")[0] for line in done.stdout.splitlines() if line
            ]
    return []


def check_arithmetic() -> list[Finding]:
    """One convolution and one product, compared with numpy: cuDNN and cuBLAS answer."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 64, 64)).astype(np.float32)
    product = jnp.matmul(a, b, precision="highest")
    image = a[None, :, :, None]
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1.0
    same = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    off = max(
        float(np.abs(np.asarray(product) - a @ b).max()),
        float(np.abs(np.asarray(same) - image).max()),
    )
    if off > 1e-2:
        advice = "reinstall jax and jaxlib of one version; check the driver"
        return [Finding("error", f"a product is off by {off:.3g}", advice)]
    return [Finding("ok", "convolution and matrix product answer as numpy does")]


def check_memory() -> list[Finding]:
    """Memory of the machine and of the accelerator, and JAX's share of it."""
    import jax

    findings = []
    free = _free_memory_gb()
    if free is not None:
        level = "ok" if free >= MIN_MEMORY_GB else "note"
        advice = "" if level == "ok" else "close other programs, or set data.threads=2"
        findings.append(Finding(level, f"{free:.1f} GB of memory free", advice))
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        limit = stats["bytes_limit"] / 1e9
        what = f"JAX may use {limit:.1f} GB of the accelerator"
        share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
        advice = f"share {share}: XLA_PYTHON_CLIENT_MEM_FRACTION changes it"
        findings.append(Finding("note", what, advice))
    return findings


def _free_memory_gb() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1e6
    return None


def check_cache() -> list[Finding]:
    """The cache of compiled programs: there, writable, this user's alone, with room."""
    folder = runtime.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "set XDG_CACHE_HOME to a folder that you may write"
        what = f"{folder}: cannot be written ({error.strerror})"
        return [Finding("error", what, advice)]
    compiled = folder / "compiled"
    size = sum(p.stat().st_size for p in compiled.glob("*") if p.is_file()) / 1e6
    findings = [Finding("ok", f"compiled programs: {size:.0f} MB in {compiled}")]
    if compiled.is_dir() and compiled.stat().st_mode & 0o022:
        what = f"{compiled}: others may write here, and what lies here is run"
        findings.append(Finding("error", what, f"chmod 700 {compiled}"))
    free = shutil.disk_usage(folder).free / 1e9
    if free < MIN_FREE_GB:
        what = f"{free:.1f} GB free on the disk of {folder}"
        findings.append(Finding("note", what, "make room: checkpoints need some GB"))
    return findings


def check_video() -> list[Finding]:
    """Whether OpenCV can write the videos of `predict`."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"vp09"), 25, (64, 64))
        is_open = writer.isOpened()
        writer.release()
    if is_open:
        return [Finding("ok", f"OpenCV {cv2.__version__} writes videos")]
    advice = "pip install opencv-python-headless (its wheels bring the codec)"
    return [Finding("note", "OpenCV cannot write videos", advice)]


def check_shipped() -> list[Finding]:
    """The checkpoint that predict takes by default: there, and of its hashes."""
    from homae_jax import weights
    from homae_jax.predictor import SHIPPED

    try:
        export = weights.load_export(SHIPPED)
    except UserError as error:
        advice = "restore homae_jax/pretrained, or give predict a --checkpoint"
        return [Finding("error", str(error), advice)]
    return [Finding("ok", f"the shipped checkpoint is whole (step {export.step})")]


def name_the_rest() -> list[Finding]:
    """What only a configuration names."""
    what = "hand model, encoder weights and data are not looked at"
    advice = "name them: --config=configs/ho3d.py --config.data.root=DIR"
    return [Finding("note", what, advice)]


def check_mano(config: ml_collections.ConfigDict) -> list[Finding]:
    """The hand model of a configuration."""
    from homae_jax import assembly
    from homae_jax.hand.mano_files import load_mano

    if not config.data.root and not config.data.mano:
        return []
    path = assembly.data_paths(config).mano
    if not path.is_file():
        advice = (
            "made at the first training"
            if config.data.dataset == "synthetic"
            else "register at mano.is.tue.mpg.de; --config.data.mano=MANO_RIGHT.pkl"
        )
        level = "note" if config.data.dataset == "synthetic" else "error"
        return [Finding(level, f"{path}: no hand model", advice)]
    try:
        load_mano(path)
    except UserError as error:
        return [Finding("error", str(error))]
    return [Finding("ok", f"hand model: {path}")]


def check_encoder(config: ml_collections.ConfigDict) -> list[Finding]:
    """The DINOv2 weights of a configuration."""
    from homae_jax.models.dinov2 import load_dinov2

    encoder = config.model.encoder
    if not encoder.weights:
        if encoder.variant == "vit_tiny":
            return [Finding("ok", "encoder vit_tiny is trained from scratch")]
        what = f"encoder {encoder.variant} starts from random parameters"
        advice = "--config.model.encoder.weights=model.safetensors (DINOv2)"
        return [Finding("note", what, advice)]
    try:
        load_dinov2(
            encoder.weights,
            variant=encoder.variant,
            image_size=config.data.image_size,
        )
    except UserError as error:
        return [Finding("error", str(error))]
    return [Finding("ok", f"encoder {encoder.variant}: {encoder.weights}")]


def check_data(config: ml_collections.ConfigDict) -> list[Finding]:
    """Whether the data set and the models are where the configuration says."""
    from homae_jax import assembly

    if not config.data.root:
        what, advice = "data.root is empty", "--config.data.root=/data/HO3D_v2"
        return [Finding("note", what, advice)]
    paths: Any = assembly.data_paths(config)
    if config.data.dataset == "synthetic" and not paths.root.is_dir():
        what = f"{paths.root}: the synthetic world is not made yet"
        return [Finding("note", what, "the first training makes it")]
    findings = []
    for key, path in (("data.root", paths.root), ("data.models", paths.models)):
        if path.is_dir():
            findings.append(Finding("ok", f"{key}: {path}"))
        else:
            advice = f"set --config.{key}=PATH"
            findings.append(Finding("error", f"{key}: {path} is not there", advice))
    if config.data.dataset == "dexycb":
        return findings + _check_subjects(paths.root)
    for split in (config.data.train_split, config.data.eval_split):
        listed = paths.root / f"{split}.txt"
        if listed.is_file():
            count = sum(1 for line in listed.read_text().splitlines() if line.strip())
            findings.append(Finding("ok", f"{split}: {count} frames listed"))
        elif paths.root.is_dir():
            advice = "unpack the whole data set"
            findings.append(Finding("error", f"{listed}: missing", advice))
    return findings


def _check_subjects(root: Path) -> list[Finding]:
    """DexYCB has no list of frames: its folders say what there is."""
    if not root.is_dir():
        return []
    nums = [len(dexycb_files.sequence_names(root, s)) for s in dexycb_files.SUBJECTS]
    what = f"DexYCB: {sum(map(bool, nums))} subjects, {sum(nums)} sequences"
    if nums == [dexycb_files.SEQUENCES_PER_SUBJECT] * len(nums):
        return [Finding("ok", what)]
    advice = f"10 and 1000 are published: python -m homae_jax.doctor data --root={root}"
    return [Finding("note" if any(nums) else "error", what, advice)]
