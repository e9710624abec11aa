"""Errors of hands and objects, one value per example.

Lengths in metres, angles in radians, AUC and F-score as fractions of 1. Joints in MANO
order with the wrist first; all points in the camera frame. Two protocols:

* ``hoisdf``: what HOISDF's evaluation code computes. Hands: errors relative to each
  one's own wrist, Procrustes without reflections (its DexYCB tables). Objects: ADD-S
  from the predicted to the true points, OCE between model origins, MCE between the
  corners of the posed objects' camera-axis-aligned boxes.
* ``standard``: the definitions of the benchmarks. Hands: HO-3D's official scorer
  (camera frame, Procrustes with reflections). Objects: ADD-S from true to predicted
  points, OCE between box centres, MCE between the rotated model boxes' corners.

`hand_metrics` and `object_metrics` want jit; memory stays bounded for any batch.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from homae_jax.geometry.alignment import procrustes_similarity, scale_translation_align
from homae_jax.geometry.numerics import safe_divide, safe_norm, safe_sqrt
from homae_jax.geometry.rotations import angle_between

Protocol = Literal["hoisdf", "standard"]
PROTOCOLS: tuple[Protocol, ...] = ("hoisdf", "standard")

PCK_THRESHOLDS = np.linspace(0.0, 0.05, 100)  # HO-3D's scorer: 0 and 50 mm included
F_THRESHOLDS = (0.005, 0.015)
CPU_POINTS = 16  # compared with all others at once on a CPU
GPU_ROWS = 32  # examples whose point pairs are compared at once on accelerators


def point_errors(
    pred: Float[Array, "*b p 3"], gt: Float[Array, "*b p 3"]
) -> Float[Array, "*b p"]:
    """Distance of each point to its counterpart."""
    return safe_norm(pred - gt)


def area_under_pck(errors: Float[Array, "*b p"]) -> Float[Array, "*b"]:
    """Area under the curve "share of points with error <= t", t = 0 .. 50 mm.

    Trapezoids over PCK_THRESHOLDS (HO-3D's scorer). An error counts from the first
    threshold k that is not below it: half of the step before it and all that follow.
    Means over examples equal the scorer's mean of the areas of single key-points.
    """
    num = len(PCK_THRESHOLDS)
    thresholds = jnp.asarray(PCK_THRESHOLDS, errors.dtype)
    first = jnp.searchsorted(thresholds, errors, side="left", method="scan_unrolled")
    area = (num - 0.5 - first.astype(errors.dtype)) / (num - 1)
    return jnp.mean(jnp.clip(area, 0.0, 1.0), axis=-1)


def nearest_distances(
    a: Float[Array, "b p 3"], b: Float[Array, "b q 3"]
) -> tuple[Float[Array, "b p"], Float[Array, "b q"]]:
    """From each point of `a` to the nearest of `b`, and from `b` to `a`.

    All pairs, by differences: |a|^2 - 2ab + |b|^2 would cancel for near points. NaN
    where either is: a lost point is near to nothing.
    """
    squared = jax.lax.platform_dependent(
        (a, b),
        cpu=lambda sets: (_nearest_on_cpu(*sets), _nearest_on_cpu(*sets[::-1])),
        default=lambda sets: jax.lax.map(_nearest, sets, batch_size=GPU_ROWS),
    )
    return safe_sqrt(squared[0]), safe_sqrt(squared[1])


def _nearest(row: tuple[Array, Array]) -> tuple[Array, Array]:
    """Squared distances of one row's points to the nearest of the other set."""
    differences = (row[0][:, None, i] - row[1][None, :, i] for i in range(3))
    squared = sum(difference**2 for difference in differences)
    return jnp.min(squared, axis=1), jnp.min(squared, axis=0)


def _nearest_on_cpu(
    a: Float[Array, "b p 3"], b: Float[Array, "b q 3"]
) -> Float[Array, "b p"]:
    """Squared distances from `a` to the nearest of `b`.

    A few points of `b` at a time and element by element: XLA keeps these in registers
    and gives every core its rows, while a reduction over pairs runs on one. Comparing
    is faster than `minimum`, which asks for NaN every time.
    """
    num_rows, num = b.shape[:2]
    filling = jnp.broadcast_to(b[:, :1], (num_rows, -num % CPU_POINTS, 3))
    blocks = jnp.concatenate([b, filling], axis=1)
    blocks = blocks.reshape(num_rows, -1, CPU_POINTS, 3).swapaxes(0, 1)

    def fold(best: Array, block: Array) -> tuple[Array, None]:
        for i in range(CPU_POINTS):
            point = block[:, None, i]
            squared = sum((a[..., k] - point[..., k]) ** 2 for k in range(3))
            best = jnp.where(squared < best, squared, best)
        return best, None

    nearest, _ = jax.lax.scan(fold, jnp.full_like(a[..., 0], jnp.inf), blocks)
    is_lost = jnp.isnan(b).any((1, 2))[:, None] | jnp.isnan(a).any(2)
    return jnp.where(is_lost, jnp.nan, nearest)


def f_scores(
    pred: Float[Array, "b p 3"], gt: Float[Array, "b q 3"]
) -> tuple[Float[Array, " b"], ...]:
    """F-score at each of F_THRESHOLDS: points strictly nearer than it (HO-3D)."""
    pred_to_gt, gt_to_pred = nearest_distances(pred, gt)
    num_pred, num_gt = pred.shape[1], gt.shape[1]
    scores = []
    for threshold in F_THRESHOLDS:
        # 2 p r / (p + r) with p = hits / num_pred, r = found / num_gt: whole numbers.
        hits = jnp.sum(pred_to_gt < threshold, axis=-1, dtype=pred.dtype)
        found = jnp.sum(gt_to_pred < threshold, axis=-1, dtype=pred.dtype)
        scores.append(safe_divide(2 * hits * found, hits * num_gt + found * num_pred))
    return tuple(scores)


def joint_metrics(
    pred: Float[Array, "b 21 3"], gt: Float[Array, "b 21 3"], *, protocol: Protocol
) -> dict[str, Float[Array, " b"]]:
    """Errors of the joints: raw, ST- and Procrustes-aligned.

    Returns:
      mje (in the protocol's frame), mje_root (wrists on each other), st_mje, pa_mje,
      j_auc, st_j_auc, pa_j_auc.
    """
    _check(protocol)
    allow_reflection = protocol == "standard"
    rooted = point_errors(pred - pred[:, :1], gt - gt[:, :1])
    raw = rooted if protocol == "hoisdf" else point_errors(pred, gt)
    scaled = point_errors(scale_translation_align(pred, gt), gt)
    aligned = point_errors(
        procrustes_similarity(pred, gt, allow_reflection=allow_reflection), gt
    )
    return {
        "mje": jnp.mean(raw, axis=-1),
        "mje_root": jnp.mean(rooted, axis=-1),
        "st_mje": jnp.mean(scaled, axis=-1),
        "pa_mje": jnp.mean(aligned, axis=-1),
        "j_auc": area_under_pck(raw),
        "st_j_auc": area_under_pck(scaled),
        "pa_j_auc": area_under_pck(aligned),
    }


def vertex_metrics(
    pred: Float[Array, "b 778 3"],
    gt: Float[Array, "b 778 3"],
    pred_wrist: Float[Array, "b 3"],
    gt_wrist: Float[Array, "b 3"],
    *,
    protocol: Protocol,
) -> dict[str, Float[Array, " b"]]:
    """Errors of the hand's mesh: v_pe, v_auc, f_5, f_15, and the same after PA."""
    _check(protocol)
    if protocol == "hoisdf":
        pred, gt = pred - pred_wrist[:, None], gt - gt_wrist[:, None]
    allow_reflection = protocol == "standard"
    aligned = procrustes_similarity(pred, gt, allow_reflection=allow_reflection)
    metrics = {}
    for prefix, vertices in (("", pred), ("pa_", aligned)):
        errors = point_errors(vertices, gt)
        metrics[f"{prefix}v_pe"] = jnp.mean(errors, axis=-1)
        metrics[f"{prefix}v_auc"] = area_under_pck(errors)
        metrics[f"{prefix}f_5"], metrics[f"{prefix}f_15"] = f_scores(vertices, gt)
    return metrics


def hand_metrics(
    pred_joints: Float[Array, "b 21 3"],
    gt_joints: Float[Array, "b 21 3"],
    pred_vertices: Float[Array, "b 778 3"] | None,
    gt_vertices: Float[Array, "b 778 3"] | None,
    *,
    protocol: Protocol,
) -> dict[str, Float[Array, " b"]]:
    """`joint_metrics`, and `vertex_metrics` where both meshes are given."""
    metrics = joint_metrics(pred_joints, gt_joints, protocol=protocol)
    if pred_vertices is None or gt_vertices is None:
        return metrics
    wrists = pred_joints[:, 0], gt_joints[:, 0]
    mesh = vertex_metrics(pred_vertices, gt_vertices, *wrists, protocol=protocol)
    return metrics | mesh


def object_metrics(
    pred_rotmat: Float[Array, "b 3 3"],
    pred_trans: Float[Array, "b 3"],
    gt_rotmat: Float[Array, "b 3 3"],
    gt_trans: Float[Array, "b 3"],
    vertices: Float[Array, "b p 3"],
    corners: Float[Array, "b 8 3"],
    *,
    protocol: Protocol,
) -> dict[str, Float[Array, " b"]]:
    """Errors of cam_T_obj.

    Args:
      vertices: the object's template, model frame.
      corners: of its axis-aligned box, model frame.

    Returns:
      oce (centre), mce (box corners), add_s (nearest points, whatever the object),
      ome (the same points: ADD, HOISDF's MME), rotation.
    """
    _check(protocol)
    # Positions relative to the true one: float32 is finest round 0.
    pred_trans, gt_trans = pred_trans - gt_trans, jnp.zeros_like(gt_trans)
    pred, gt = (
        _pose(pred_rotmat, pred_trans, vertices),
        _pose(gt_rotmat, None, vertices),
    )
    pred_to_gt, gt_to_pred = nearest_distances(pred, gt)
    if protocol == "hoisdf":
        nearest = pred_to_gt
        centres = pred_trans, gt_trans
        boxes = _box_ends(pred), _box_ends(gt)
    else:
        nearest = gt_to_pred
        boxes = (
            _pose(pred_rotmat, pred_trans, corners),
            _pose(gt_rotmat, None, corners),
        )
        centres = tuple(jnp.mean(box, axis=1) for box in boxes)
    return {
        "oce": safe_norm(centres[0] - centres[1]),
        "mce": jnp.mean(point_errors(*boxes), axis=-1),
        "add_s": jnp.mean(nearest, axis=-1),
        "ome": jnp.mean(point_errors(pred, gt), axis=-1),
        "rotation": angle_between(pred_rotmat, gt_rotmat),
    }


def _pose(rotmat: Array, trans: Array | None, points: Array) -> Array:
    posed = jnp.einsum("bij,bpj->bpi", rotmat, points, precision="highest")
    return posed if trans is None else posed + trans[:, None]


def _box_ends(points: Float[Array, "b p 3"]) -> Float[Array, "b 8 3"]:
    """The corners of the points' axis-aligned box."""
    ends = jnp.stack([jnp.min(points, axis=1), jnp.max(points, axis=1)])
    corners = [
        jnp.stack([ends[i, :, 0], ends[j, :, 1], ends[k, :, 2]], axis=-1)
        for i, j, k in np.ndindex(2, 2, 2)
    ]
    return jnp.stack(corners, axis=1)


def _check(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol "{protocol}": use one of {", ".join(PROTOCOLS)}')
