"""Public PyTorch implementations, timed in a Python of their own beside ours.

No part of the project needs them: without `--peer`, or where the named Python lacks
them, the section says so and goes on. A peer's process keeps its memory as ours does
(`runtime.keep_memory`), and its measurements say so.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from homae_jax.benchmarks._measure import DTYPES, Measurement
from homae_jax.errors import UserError
from homae_jax.schema import Batch

PROGRAM = Path(__file__).with_name("_peer_program.py")
TIMEOUT_S = 3600
HOISDF_SIDE = 256  # of its crops, px


def add_arguments(
    parser: argparse.ArgumentParser, *, compiles: bool = False, rounds: bool = False
) -> None:
    """Options of a section that has a peer; what the peer can do gets one too."""
    parser.add_argument(
        "--peer",
        type=_program,
        default="",
        metavar="PYTHON",
        help="one that has torch and the peers",
    )
    if compiles:
        parser.add_argument(
            "--compile", action="store_true", help="the peer by torch.compile"
        )
    if rounds:
        parser.add_argument(
            "--peer_dtype",
            choices=DTYPES,
            default="float32",
            help="bfloat16: the peer under torch.autocast",
        )


def _program(path: str) -> str:
    """Something to run, or nothing: found out before anything is measured."""
    if path and shutil.which(path) is None:
        raise argparse.ArgumentTypeError(f"{path!r} is no program; name a Python")
    return path


def run(
    name: str,
    request: Mapping[str, Any],
    options: argparse.Namespace,
    ours: Mapping[str, Measurement],
) -> Iterator[Measurement]:
    """The peer's measurements; each note compares with ours of the same key."""
    if not options.peer:
        print(f"{name}: no peer; --peer=PYTHON names one", file=sys.stderr)
        return
    if jax.default_backend() != "cpu":
        print(
            f"{name}: peers run on the CPU; JAX_PLATFORMS=cpu has ours run there too",
            file=sys.stderr,
        )
        return
    answer = _ask({**request, "repeats": options.repeats}, options.peer)
    if "absent" in answer[0]:
        print(f"{name}: absent ({answer[0]['absent']})", file=sys.stderr)
        return
    for values in answer:
        key = values.pop("key")
        result = Measurement(name=f"peer: {name} {key}", **values)
        yield result._replace(figures=_compared(result, ours[key]))


def _compared(peer: Measurement, own: Measurement) -> dict[str, float]:
    """How many times as long an example takes; calls may differ in size."""
    size = own.count / peer.count
    return {
        "times_ours_median": size * peer.median_s / own.median_s,
        "times_ours_fastest": size * peer.fastest_s / own.fastest_s,
        "times_ours_processor": (
            size * peer.fastest_processor_s / own.fastest_processor_s
        ),
    }


def is_as_measured_elsewhere(config: Any, options: argparse.Namespace) -> bool:
    """Whether HOISDF's times of elsewhere compare: an encoder of its size on a CPU.

    Not beside a peer of the same run, which says more.
    """
    is_comparable = config.model.encoder.variant == "vits14" and not options.peer
    return is_comparable and jax.default_backend() == "cpu"


def hoisdf_request(
    what: str, batch: Batch, options: argparse.Namespace
) -> dict[str, Any]:
    """For HOISDF's work on pictures of the same scenes; its crops are larger."""
    zoom = HOISDF_SIDE / batch.image.shape[1]
    to_crop = np.diag([zoom, zoom, 1.0]).astype(np.float32)
    arrays = {
        "intrinsics": to_crop @ np.asarray(batch.intrinsics),
        "hand_origin": batch.wrist,
        "object_origin": batch.object_center,
        "hand_box": zoom * batch.hand_box_px,
        "object_box": zoom * batch.object_box_px,
    }
    return {
        "what": f"hoisdf {what}",
        "batch": len(batch.image),
        "dtype": options.peer_dtype,
        "scene": {key: np.asarray(value).tolist() for key, value in arrays.items()},
    }


def _ask(request: dict[str, Any], python: str) -> list[dict[str, Any]]:
    try:
        done = subprocess.run(
            [python, str(PROGRAM)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--peer={python}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"--peer={python}: {lines[-1]}")
    return json.loads(done.stdout)
