"""From the files of a data set to batches: reading, cropping, augmenting.

`--peer` names a Python that has torch and Pillow, for HOISDF's way from the same files.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from homae_jax import assembly
from homae_jax.benchmarks import _peer, _setup
from homae_jax.benchmarks._measure import Measurement, measure
from homae_jax.data.crops import Augmentation, make_example
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.data.source import Source
from homae_jax.geometry.camera import project

NUM_BATCHES = 10  # per call: the loader reads ahead
NUM_CROPS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this section."""
    _setup.add_arguments(parser)
    _peer.add_arguments(parser)


def run(options: argparse.Namespace) -> Iterator[Measurement]:
    """One core alone, then the pipeline with its threads and workers."""
    config = options.config
    if options.batch:
        config.train.batch_size = options.batch
    source = assembly.build_source(config, config.data.train_split)
    _, object_names = assembly.build_templates(config)
    rows = np.linspace(0, len(source) - 1, NUM_CROPS).round().astype(int).tolist()
    ours = _one_core(config, source, rows, object_names, options.repeats)
    yield ours
    if isinstance(source, Ho3dSource):
        request = _peer_request(source, rows) if options.peer else {}
        yield from _peer.run("data, HOISDF", request, options, {"one core": ours})
    batches = assembly.build_train_iterator(config, source, object_names)
    try:
        yield measure(
            lambda: [next(batches) for _ in range(NUM_BATCHES)],
            name="training pipeline",
            shapes=(
                f"{NUM_BATCHES} batches of {config.train.batch_size} crops of "
                f"{config.data.image_size} px, {config.data.threads} threads, "
                f"{config.data.workers} workers"
            ),
            count=NUM_BATCHES * config.train.batch_size,
            repeats=options.repeats,
        )
    finally:
        batches.close()


def _one_core(
    config: Any, source: Source, rows: list[int], object_names: Sequence, repeats: int
) -> Measurement:
    """Reading, cropping and augmenting without threads: what a core can do."""
    example_options = assembly.example_options(config, object_names)
    augmentation = Augmentation(**config.data.augment.to_dict())

    def crop_all() -> None:
        for row in rows:
            rng = np.random.default_rng(row)
            make_example(source[row], rng, augmentation=augmentation, **example_options)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return measure(
            crop_all,
            name="one core",
            shapes=f"{NUM_CROPS} augmented crops of {config.data.image_size} px",
            count=NUM_CROPS,
            repeats=repeats,
        )
    finally:
        cv2.setNumThreads(threads)


def _peer_request(source: Ho3dSource, rows: list[int]) -> dict[str, Any]:
    """For HOISDF's crops of the same pictures."""
    frames = []
    for row in rows:
        frame = source[row]
        corners = frame["object_corners"] @ frame["object_rotmat"].T
        camera = frame["intrinsics"]
        scene = {
            "hand_px": project(frame["joints"], camera),
            "object_px": project(corners + frame["object_trans"], camera),
            "intrinsics": camera,
        }
        lists = {key: np.asarray(value).tolist() for key, value in scene.items()}
        frames.append({"path": str(source.picture_path(row).absolute()), **lists})
    height, width = source[rows[0]]["image"].shape[:2]
    return {"what": "hoisdf crops", "frames": frames, "size": [width, height]}
