"""Runs a trained network over a split for the evaluator, and keeps what figures need.

Every batch is answered from its clean image. Some batches are probed as well: a masked
pass (reconstruction) and the SDF near the true surfaces. A few rows are kept, on the
host, to be drawn. Frames and units as in schema.py.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from homae_jax.evaluation import passes, probes
from homae_jax.evaluation.evaluator import Prediction, TrueHand
from homae_jax.geometry import mesh_sdf
from homae_jax.schema import Array, Batch, ObjectTemplates

NUM_POINTS = 1024  # of a probe, and of a slice: one compiled program for both
SLICE_SIDE = 32

# Result key -> the trivial predictor's value, where it is no probe of its own.
PROBES = (
    "rec_masked_mse",
    "sdf_sign_hand",
    "sdf_sign_hand_balanced",
    "sdf_sign_object",
    "sdf_sign_object_balanced",
)


class Shown(NamedTuple):
    """One frame to draw: labels, the answer, and what a probe saw."""

    batch: Batch  # of one row, without the leading axis; numpy
    answer: passes.Answer
    gt_vertices: Float[np.ndarray, "778 3"] | None
    reconstruction: passes.Reconstruction | None
    slices: Mapping[
        str, Float[np.ndarray, "2 s s"]
    ]  # predicted and true SDF, metres; NaN: not known


class ModelRunner:
    """A predictor for `evaluator.evaluate`: call it with one batch after the other."""

    def __init__(
        self,
        params: Any,
        *,
        model: Any,
        mano: Any,
        templates: ObjectTemplates,
        true_hand: Callable[[Batch], TrueHand],
        near_sigma: float,
        has_masking: bool,
        seed: int = 0,
        found: tuple[str, ...] = (),
        center_depth: float | None = None,
    ):
        """Prepares the compiled passes.

        Args:
          true_hand: what the hands of a batch are compared with.
          near_sigma: scatter of the probed points about the surface, metres.
          has_masking: whether the model masks; without, nothing is reconstructed.
          found, center_depth: of passes.predict: what is not taken from the labels.
        """
        self.shown: list[Shown] = []
        self.num_probed = 0
        self._params = jax.tree.map(jnp.asarray, params)
        self._mano, self._templates = mano, templates
        self._hand_faces = jnp.asarray(mano.closed_faces)
        self._true_hand = true_hand
        self._probed: set[int] = set()
        self._shown_samples: set[int] = set()
        self._has_masking = has_masking
        self._key = jax.random.key(seed)
        self._number = 0
        # Few programs: operations on their own would be compiled one by one.
        self._predict = passes.jitted(
            passes.predict, model=model, found=found, center_depth=center_depth
        )
        self._distances = passes.jitted(passes.signed_distances, model=model)
        self._reconstruct = passes.jitted(passes.reconstruct, model=model)
        self._masked_errors = jax.jit(probes.masked_errors)
        self._surfaces = jax.jit(surfaces)
        self._scatter = jax.jit(functools.partial(scattered, sigma=near_sigma))
        self._square_points = jax.jit(facing_points)
        self._true_distances = jax.jit(true_distances)
        self._shares = jax.jit(sign_shares)

    def plan(
        self,
        params: Any = None,
        *,
        probed_batches: Iterable[int],
        shown_samples: Iterable[int],
    ) -> None:
        """Starts over with the first batch.

        Args:
          params: new parameters; None: those there are.
          probed_batches: numbers of the batches to probe.
          shown_samples: `sample_index` of rows to keep.
        """
        if params is not None:
            self._params = jax.tree.map(jnp.asarray, params)
        self._probed = set(map(int, probed_batches))
        self._shown_samples = set(map(int, shown_samples))
        self._number, self.num_probed, self.shown = 0, 0, []

    def __call__(self, batch: Batch) -> Prediction:
        """Answers a batch (numpy); probes it and keeps rows of it where told to."""
        device = jax.tree.map(jnp.asarray, batch)
        answer = self._predict(self._params, device, self._mano)
        true_hand = self._true_hand(batch)
        gt_vertices = true_hand.vertices
        blank = np.full(len(batch.is_real), np.nan)
        values = dict.fromkeys(PROBES, blank)
        baselines = dict(values)
        reconstruction = None
        if self._number in self._probed:
            self.num_probed += int(np.sum(batch.is_real))
            reconstruction = self._probe_image(device, values, baselines)
            self._probe_sdf(device, gt_vertices, values, baselines)
        self._keep(batch, device, answer, gt_vertices, reconstruction)
        self._number += 1
        return Prediction(
            joints=answer.joints,
            vertices=answer.vertices,
            object_rotmat=answer.object_rotmat,
            object_trans=answer.object_trans,
            true_hand=true_hand,
            extra=values,
            extra_baselines=baselines,
        )

    def _probe_image(
        self, batch: Batch, values: dict, baselines: dict
    ) -> passes.Reconstruction | None:
        if not self._has_masking:
            return None
        key = jax.random.fold_in(self._key, self._number)
        seen = self._reconstruct(self._params, batch, self._mano, key)
        errors = self._masked_errors(seen.image, seen.clean_image, seen.patch_mask)
        values["rec_masked_mse"] = np.asarray(errors["rec_masked"])
        baselines["rec_masked_mse"] = np.asarray(errors["rec_masked_fill"])
        return jax.tree.map(np.asarray, seen)

    def _probe_sdf(
        self, batch: Batch, gt_vertices: Array | None, values: dict, baselines: dict
    ) -> None:
        true = self._surfaces(batch, gt_vertices, self._templates, self._hand_faces)
        key = jax.random.fold_in(self._key, self._number)
        points = self._scatter(key, true)
        shares = self._shares(
            self._predicted_distances(batch, points), self._true_distances(points, true)
        )
        has_label = {"hand": batch.has_hand, "object": batch.has_object}
        for name, share in shares.items():
            known = np.asarray(has_label[name])
            share = {
                key: np.where(known, value, np.nan) for key, value in share.items()
            }
            values[f"sdf_sign_{name}"] = share["sign"]
            values[f"sdf_sign_{name}_balanced"] = share["sign_balanced"]
            baselines[f"sdf_sign_{name}"] = share["sign_majority"]
            baselines[f"sdf_sign_{name}_balanced"] = np.where(known, 0.5, np.nan)

    def _predicted_distances(
        self, batch: Batch, points: Mapping[str, Array]
    ) -> dict[str, Array]:
        """SDF, metres, at root-relative points of hand and object."""
        nowhere = np.zeros((len(batch.is_real), NUM_POINTS, 3), np.float32)
        asked = (points.get(name, nowhere) for name in ("hand", "object"))
        hand, obj = self._distances(self._params, batch, self._mano, *asked)
        return {"hand": hand, "object": obj}

    def _keep(
        self,
        batch: Batch,
        device: Batch,
        answer: passes.Answer,
        gt_vertices: Array | None,
        reconstruction: passes.Reconstruction | None,
    ) -> None:
        index, is_real = np.asarray(batch.sample_index), np.asarray(batch.is_real)
        rows = np.flatnonzero(np.isin(index, list(self._shown_samples)) & is_real)
        if not len(rows):
            return
        slices = self._slices(device, answer, gt_vertices, rows)
        for number, row in enumerate(rows.tolist()):
            trees = (batch, answer, gt_vertices, reconstruction)
            own = {name: values[number] for name, values in slices.items()}
            self.shown.append(Shown(*(_row(tree, row) for tree in trees), slices=own))

    def _slices(
        self,
        batch: Batch,
        answer: passes.Answer,
        gt_vertices: Array | None,
        rows: np.ndarray,
    ) -> dict[str, Float[np.ndarray, "n 2 s s"]]:
        """Predicted and true SDF on the squares of `facing_points`; NaN: no truth."""
        points = self._square_points(batch, answer)
        true = self._true_distances(
            points,
            self._surfaces(batch, gt_vertices, self._templates, self._hand_faces),
        )
        pred = self._predicted_distances(batch, points)
        slices = {}
        for name, distances in pred.items():
            found = np.asarray(distances)[rows]
            known = np.asarray(true[name])[rows] if name in true else np.nan * found
            pair = np.stack((found, known), axis=1)
            slices[name] = pair.reshape(len(rows), 2, SLICE_SIDE, SLICE_SIDE)
        return slices


def surfaces(
    batch: Batch,
    gt_vertices: Float[Array, "b 778 3"] | None,
    templates: ObjectTemplates,
    hand_faces: Int[Array, "f 3"],
) -> dict[str, tuple[Array, Array]]:
    """The true closed surfaces, root-relative: vertices [b v 3], faces [b f 3].

    Args:
      gt_vertices: of the hand, camera frame; None: there is no hand among them.
    """
    vertices = templates.vertices[batch.object_index]
    faces = templates.faces[batch.object_index]
    posed = jnp.einsum(
        "bij,bvj->bvi", batch.object_rotmat, vertices, precision="highest"
    )
    center = (batch.object_trans - batch.object_center)[:, None]
    found = {"object": (posed + center, faces)}
    if gt_vertices is not None:
        of_all = jnp.broadcast_to(hand_faces, (len(gt_vertices), *hand_faces.shape))
        found["hand"] = gt_vertices - batch.wrist[:, None], of_all
    return found


def scattered(
    key: Array, of: dict[str, tuple], *, sigma: float
) -> dict[str, Float[Array, "b p 3"]]:
    """NUM_POINTS points about each surface."""
    keys = jax.random.split(key, 2)
    return {
        name: probes.near_surface(keys[i], *of[name], num=NUM_POINTS, sigma=sigma)
        for i, name in enumerate(("object", "hand"))
        if name in of
    }


def facing_points(
    batch: Batch, answer: passes.Answer
) -> dict[str, Float[Array, "b p 3"]]:
    """Squares that face the camera, through the middle of hand and object.

    Root-relative. The true middle where it is known, else the answer's.
    """
    hand = jnp.where(batch.has_hand[:, None, None], batch.joints, answer.joints)
    known = batch.has_object[:, None]
    obj = jnp.where(known, batch.object_trans, answer.object_trans)
    middle = {
        "hand": jnp.mean(hand, axis=1) - batch.wrist,
        "object": obj - batch.object_center,
    }
    return {
        name: passes.slice_points(name, SLICE_SIDE)[None] + center[:, None]
        for name, center in middle.items()
    }


def true_distances(
    points: dict[str, Float[Array, "b p 3"]], of: dict[str, tuple]
) -> dict[str, Float[Array, "b p"]]:
    """Signed distances, metres, to each surface there is."""
    return {
        name: mesh_sdf.signed_distance_batch(points[name], *surface)
        for name, surface in of.items()
    }


def sign_shares(
    pred: dict[str, Float[Array, "b p"]], true: dict[str, Float[Array, "b p"]]
) -> dict[str, dict[str, Float[Array, " b"]]]:
    """probes.sign_shares for each surface there is."""
    return {name: probes.sign_shares(pred[name], true[name]) for name in true}


def spread(num: int, of: int) -> np.ndarray:
    """`num` numbers evenly spread over 0 .. of - 1, without repeats."""
    return np.unique(np.linspace(0, of - 1, min(num, of)).round().astype(int))


def _row(tree: Any, row: int) -> Any:
    """One row of every array of a tree (or None), on the host."""
    return jax.tree.map(lambda column: np.asarray(column)[row], tree)
