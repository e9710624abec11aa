"""Predicts HO-3D's evaluation split and writes the file that the organisers score.

Predictions are in the OpenCV camera frame, metres, joints in MANO order; what changes
frame, order and format is evaluation/ho3d_submission.py.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from homae_jax import assembly, scoring
from homae_jax.data import pipeline
from homae_jax.data.ho3d import EVALUATION
from homae_jax.errors import UserError
from homae_jax.evaluation import passes
from homae_jax.evaluation.ho3d_submission import export_submission
from homae_jax.progress import progress_bar

LAYOUTS = ("ho3d", "synthetic")  # data.dataset whose frames are HO-3D's


def check_submittable(config: ml_collections.ConfigDict) -> None:
    """Refuses what could not become a whole submission, before anything is loaded."""
    if config.data.dataset not in LAYOUTS:
        raise UserError(
            f'--submission: data.dataset="{config.data.dataset}" is not HO-3D'
        )
    if config.data.max_eval_frames:
        raise UserError(
            "--submission needs every frame of evaluation.txt; "
            "set --config.data.max_eval_frames=0"
        )


def write_submission(
    config: ml_collections.ConfigDict,
    params: Any,
    *,
    parts: assembly.Parts,
    path: str | Path,
) -> Path:
    """Writes pred.zip: every frame of evaluation.txt, in its order.

    Finger tips are those of config.evaluate.fingertips, as in the scores.

    Raises:
      UserError: not HO-3D, some frames only, or predictions that are not finite.
    """
    check_submittable(config)
    source = assembly.build_source(config, EVALUATION)
    predict = passes.jitted(
        passes.predict, model=parts.model, **scoring.found_options(config)
    )
    params = jax.tree.map(jnp.asarray, params)
    rows = np.arange(len(source))
    batches = assembly.build_eval_batches(config, source, rows, parts.object_names)
    total = pipeline.num_batches(len(rows), config.evaluate.batch_size)
    joints, vertices = [], []
    for batch in progress_bar(batches, total=total, desc="submission"):
        answer = predict(params, jax.tree.map(jnp.asarray, batch), parts.mano)
        is_real = np.asarray(batch.is_real)
        joints.append(np.asarray(answer.joints)[is_real])
        vertices.append(np.asarray(answer.vertices)[is_real])
    names = [source.frame_name(int(row)) for row in rows]
    return export_submission(
        path,
        np.concatenate(joints),
        np.concatenate(vertices),
        frames=names,
        order=names,
    )
