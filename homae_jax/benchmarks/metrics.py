"""All metrics of hands and objects, both protocols, over many samples; and HOISDF's.

`--peer` names a Python that has torch and scipy, for HOISDF's own way to its scores.
Samples are 21 joints, 778 vertices and 1,000 object points, drawn at random and anew
for every batch (their drawing is not timed), so memory does not grow with their number.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from homae_jax import metrics
from homae_jax.benchmarks import _peer
from homae_jax.benchmarks._measure import Measurement, measure, peak_memory
from homae_jax.geometry.rotations import aa_to_rotmat, random_rotmat

NUM_JOINTS, NUM_VERTICES, NUM_POINTS = 21, 778, 1000
SHAPES = f"{NUM_JOINTS} joints, {NUM_VERTICES} vertices, {NUM_POINTS} object points"
PEER_BATCH = 8  # it writes out all pairs of an object's points: 24 MB each
TARGET = "to be within 60 s on two cores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=250, help="samples per call")
    _peer.add_arguments(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """Each half of each protocol on one batch, then all of it on all samples."""
    batch = min(options.batch, options.samples)
    hand, target = jax.jit(_draw, static_argnums=1)(jax.random.key(0), batch)
    for protocol in metrics.PROTOCOLS:
        ours = {}
        for part, arguments in ((_hand, hand), (_object, target)):
            name = part.__name__[1:]
            ours[name] = measure(
                functools.partial(part, protocol=protocol),
                *arguments,
                name=f"{name} metrics, {protocol}",
                shapes=f"{batch} x {SHAPES}",
                count=batch,
                repeats=options.repeats,
            )
            yield ours[name]
        if protocol == "hoisdf":
            request = {"what": "hoisdf scores", "batch": min(batch, PEER_BATCH)}
            yield from _peer.run("metrics, HOISDF", request, options, ours)
    yield _run_all(options.samples, batch)


def _run_all(samples: int, batch: int) -> Measurement:
    """Every sample once; whole batches, the last one filled up."""
    seconds, processor_s = [], 0.0
    draw = jax.jit(_draw, static_argnums=1)
    for step in range(-(-samples // batch)):
        drawn = jax.block_until_ready(draw(jax.random.key(step + 1), batch))
        start, used = time.perf_counter(), time.process_time()
        for protocol in metrics.PROTOCOLS:
            for part, arguments in zip((_hand, _object), drawn, strict=True):
                jax.block_until_ready(part(*arguments, protocol=protocol))
        seconds.append(time.perf_counter() - start)
        processor_s += time.process_time() - used
    peak_bytes, peak_of = peak_memory()
    num_calls = len(seconds)
    return Measurement(
        name="all metrics, both protocols, all samples",
        shapes=f"{samples} x {SHAPES}",
        count=samples,
        repeats=1,
        first_s=seconds[0],
        median_s=sum(seconds),
        fastest_s=min(seconds) * num_calls,
        slowest_s=max(seconds) * num_calls,
        processor_s=processor_s,
        fastest_processor_s=processor_s,
        peak_bytes=peak_bytes,
        peak_of=peak_of,
        note=f"{num_calls} batches of {statistics.median(seconds):.2f} s; {TARGET}",
    )


@functools.partial(jax.jit, static_argnames="protocol")
def _hand(*points: jax.Array, protocol: metrics.Protocol) -> dict[str, jax.Array]:
    return metrics.hand_metrics(*points, protocol=protocol)


@functools.partial(jax.jit, static_argnames="protocol")
def _object(*poses: jax.Array, protocol: metrics.Protocol) -> dict[str, jax.Array]:
    return metrics.object_metrics(*poses, protocol=protocol)


def _draw(key: jax.Array, num: int) -> tuple[tuple, tuple]:
    """Arguments of hand_metrics and of object_metrics: errors of a centimetre."""
    keys = jax.random.split(key, 8)

    def normal(index: int, *shape: int, scale: float) -> jax.Array:
        return scale * jax.random.normal(keys[index], (num, *shape))

    hand = normal(0, NUM_JOINTS + NUM_VERTICES, 3, scale=0.05)
    pred_hand = hand + normal(1, *hand.shape[1:], scale=0.01)
    points = normal(2, NUM_POINTS, 3, scale=0.05)
    corners = jnp.sign(normal(3, 8, 3, scale=0.1)) * 0.1
    rotmat, trans = random_rotmat(keys[4], (num,)), normal(5, 3, scale=0.1)
    turn = aa_to_rotmat(normal(6, 3, scale=0.1))
    pred_rotmat = jnp.matmul(turn, rotmat, precision="highest")
    pred_trans = trans + normal(7, 3, scale=0.01)
    joints = pred_hand[:, :NUM_JOINTS], hand[:, :NUM_JOINTS]
    vertices = pred_hand[:, NUM_JOINTS:], hand[:, NUM_JOINTS:]
    return (*joints, *vertices), (
        pred_rotmat,
        pred_trans,
        rotmat,
        trans,
        points,
        corners,
    )
