"""Runs a trained network over a split for the evaluator, and keeps what figures need.

Every batch is answered from its clean image. Some batches are probed as well: a masked
pass (reconstruction) and the SDF near the true surfaces. A few rows are kept, on the
host, to be drawn. Frames and units as in schema.py.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from homae_jax.evaluation import passes, probes
from homae_jax.evaluation.evaluator import Prediction
from homae_jax.geometry import mesh_sdf
from homae_jax.schema import Array, Batch, ObjectTemplates

NUM_POINTS = 1024  # of a probe, and of a slice: one compiled program for both
SLICE_SIDE = 32
SLICE_HALF_SIZE = {"hand": 0.13, "object": 0.16}  # metres

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
    slices: Mapping[str, Float[np.ndarray, "2 s s"]]  # predicted and true SDF, metres


class ModelRunner:
    """A predictor for `evaluator.evaluate`: call it with one batch after the other."""

    def __init__(
        self,
        params: Any,
        *,
        model: Any,
        mano: Any,
        templates: ObjectTemplates,
        true_vertices: Callable[[Batch], Float[np.ndarray, "b 778 3"] | None],
        near_sigma: float,
        has_masking: bool,
        seed: int = 0,
        found: tuple[str, ...] = (),
        center_depth: float | None = None,
    ):
        """Prepares the compiled passes.

        Args:
          true_vertices: the true hand meshes of a batch, or None where there are none.
          near_sigma: scatter of the probed points about the surface, metres.
          has_masking: whether the model masks; without, nothing is reconstructed.
          found, center_depth: of passes.predict: what is not taken from the labels.
        """
        self.shown: list[Shown] = []
        self.num_probed = 0
        self._params = jax.tree.map(jnp.asarray, params)
        self._mano, self._templates = mano, templates
        self._true_vertices = true_vertices
        self._probed: set[int] = set()
        self._shown_samples: set[int] = set()
        self._scale = model.points["scale"]
        self._has_masking = has_masking
        self._key = jax.random.key(seed)
        self._number = 0
        self._predict = passes.jitted(
            passes.predict, model=model, found=found, center_depth=center_depth
        )
        self._distances = passes.jitted(passes.signed_distances, model=model)
        self._reconstruct = passes.jitted(passes.reconstruct, model=model)
        self._true_distances = jax.jit(mesh_sdf.signed_distance_batch)
        self._scatter = jax.jit(
            lambda key, vertices, faces: probes.near_surface(
                key, vertices, faces, num=NUM_POINTS, sigma=near_sigma
            )
        )

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
        gt_vertices = self._true_vertices(batch)
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
            gt_vertices=gt_vertices,
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
        errors = probes.masked_errors(seen.image, seen.clean_image, seen.patch_mask)
        values["rec_masked_mse"] = np.asarray(errors["rec_masked"])
        baselines["rec_masked_mse"] = np.asarray(errors["rec_masked_fill"])
        return jax.tree.map(np.asarray, seen)

    def _probe_sdf(
        self, batch: Batch, gt_vertices: Array | None, values: dict, baselines: dict
    ) -> None:
        surfaces = self._surfaces(batch, gt_vertices)
        keys = jax.random.split(jax.random.fold_in(self._key, self._number), 2)
        points = {
            name: self._scatter(key, *surface)
            for key, (name, surface) in zip(keys, surfaces.items(), strict=False)
        }
        pred = self._predicted_distances(batch, points)
        has_label = {"hand": batch.has_hand, "object": batch.has_object}
        for name, surface in surfaces.items():
            true = self._true_distances(points[name], *surface)
            shares = probes.sign_shares(pred[name], true)
            is_labelled = np.asarray(has_label[name])
            for key, of in (("", "sign"), ("_balanced", "sign_balanced")):
                share = np.asarray(shares[of])
                values[f"sdf_sign_{name}{key}"] = np.where(is_labelled, share, np.nan)
            majority = np.asarray(shares["sign_majority"])
            baselines[f"sdf_sign_{name}"] = np.where(is_labelled, majority, np.nan)
            half = np.where(is_labelled, 0.5, np.nan)
            baselines[f"sdf_sign_{name}_balanced"] = half

    def _surfaces(self, batch: Batch, gt_vertices: Array | None) -> dict[str, tuple]:
        """The true closed surfaces, root-relative: vertices [b v 3], faces [b f 3]."""
        template = jax.tree.map(lambda x: x[batch.object_index], self._templates)
        posed = _posed(template.vertices, batch.object_rotmat, batch.object_trans)
        surfaces = {"object": (posed - batch.object_center[:, None], template.faces)}
        if gt_vertices is not None:
            faces = jnp.asarray(self._mano.closed_faces)
            faces = jnp.broadcast_to(faces, (len(gt_vertices), *faces.shape))
            rooted = jnp.asarray(gt_vertices) - batch.wrist[:, None]
            surfaces["hand"] = rooted, faces
        return surfaces

    def _predicted_distances(
        self, batch: Batch, points: Mapping[str, Array]
    ) -> dict[str, Array]:
        """SDF, metres, at root-relative points of hand and object."""
        nowhere = jnp.zeros((len(batch.is_real), NUM_POINTS, 3))
        asked = (self._scale * points.get(name, nowhere) for name in ("hand", "object"))
        hand, obj = self._distances(self._params, batch, self._mano, *asked)
        return {"hand": hand / self._scale, "object": obj / self._scale}

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
        """SDF on squares that face the camera, through the middle of hand and object.

        The true middle where it is known, else the answer's.
        """
        hand = jnp.where(batch.has_hand[:, None, None], batch.joints, answer.joints)
        known = batch.has_object[:, None]
        obj = jnp.where(known, batch.object_trans, answer.object_trans)
        middle = {
            "hand": jnp.mean(hand, axis=1) - batch.wrist,
            "object": obj - batch.object_center,
        }
        points = {
            name: square_points(SLICE_HALF_SIZE[name])[None] + center[:, None]
            for name, center in middle.items()
        }
        pred = self._predicted_distances(batch, points)
        slices = {}
        for name, (vertices, faces) in self._surfaces(batch, gt_vertices).items():
            true = self._true_distances(points[name][rows], vertices[rows], faces[rows])
            both = np.stack([np.asarray(pred[name])[rows], np.asarray(true)], axis=1)
            slices[name] = both.reshape(len(rows), 2, SLICE_SIDE, SLICE_SIDE)
        return slices


def square_points(half_size: float) -> Float[np.ndarray, "n 3"]:
    """SLICE_SIDE^2 points of a square facing the camera, rows from the top."""
    axis = np.linspace(-half_size, half_size, SLICE_SIDE)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    plane = np.stack([x, y, np.zeros_like(x)], axis=-1)
    return plane.reshape(-1, 3).astype(np.float32)


def spread(num: int, of: int) -> np.ndarray:
    """`num` numbers evenly spread over 0 .. of - 1, without repeats."""
    return np.unique(np.linspace(0, of - 1, min(num, of)).round().astype(int))


def _row(tree: Any, row: int) -> Any:
    """One row of every array of a tree (or None), on the host."""
    return jax.tree.map(lambda column: np.asarray(column)[row], tree)


def _posed(vertices: Array, rotmat: Array, trans: Array) -> jax.Array:
    posed = jnp.einsum("bij,bvj->bvi", rotmat, vertices, precision="highest")
    return posed + trans[:, None]
