"""A program that reads batches and then ends in a way it is told, for tests.

python -m tests.reliability.loading ROOT WORKERS normal|error|wait
"""

import contextlib
import sys
import threading
import time

import numpy as np

from configs import common
from homae_jax.data import pipeline
from homae_jax.data.ho3d import Ho3dSource
from tests.data import ho3d_tree


def batches(root: str, workers: int, threads: int = 3):
    """An iterator over a small tree, as training makes it."""
    source = Ho3dSource(root, "train")
    data = common.get_config().data
    keys = "crop crop_scale hand_box_scale object_box_scale object_center"
    options = {key: data[key] for key in [*keys.split(), "object_center_depth"]}
    names = tuple(sorted(set(ho3d_tree.OBJECTS.values())))
    return pipeline.train_iterator(
        source,
        rows=np.arange(len(source)),
        batch_size=2,
        seed=0,
        example_options=options | {"object_names": names, "image_size": 32},
        augment_options=data.augment.to_dict(),
        threads=threads,
        workers=workers,
    )


def main(root: str, workers: str, end: str) -> None:
    before = threading.active_count()
    with contextlib.closing(batches(root, int(workers))) as found:
        for _ in range(3):
            next(found)
        print("reading", flush=True)
        if end == "error":
            raise RuntimeError("on purpose")
        while end == "wait":
            next(found)
            time.sleep(0.01)
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    print(f"threads {threading.active_count() - before}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
