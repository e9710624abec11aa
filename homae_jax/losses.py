"""One pure function per term of L_total (HOMAE sec. III-D, HOISDF for L_others).

Conventions: functions take values and a mask of the rows that count, and return one
scalar, the mean over what counts (0 when nothing does). Metres; the vote terms are in
millimetres, as in HOISDF. Everything is float32.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from homae_jax.geometry import camera, rotations
from homae_jax.schema import HAND, OBJECT, Batch, Located, Outputs, Scene, Targets

VOTE_RADIUS_MM = 40.0  # points vote for joints nearer than this (HOISDF)
MM = 1e3


def masked_mean(
    values: Float[Array, "b *rest"], is_counted: Bool[Array, " b"]
) -> Float[Array, ""]:
    """Mean over the rows that count and all other axes."""
    per_row = jnp.mean(values.reshape(values.shape[0], -1), axis=-1)
    total = jnp.sum(jnp.where(is_counted, per_row, 0.0))
    return total / jnp.maximum(jnp.sum(is_counted), 1)


def smooth_l1(error: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Quadratic below 1, linear above."""
    return optax.losses.huber_loss(error, delta=1.0)


def over_layers(term, layered: Float[Array, "l b *rest"]) -> Float[Array, ""]:
    """Mean of a term over the supervised layers."""
    return jnp.mean(jax.vmap(term)(layered))


def reconstruction_losses(
    outputs: Outputs, is_real: Bool[Array, " b"]
) -> dict[str, Float[Array, ""]]:
    """L_rec over all pixels (HOMAE eq. 10) and, to watch, over masked ones alone.

    The second is a mean over colours too, as in the evaluation's tables.
    """
    squared = jnp.sum((outputs.image - outputs.clean_image) ** 2, axis=-1)
    terms = {"rec": masked_mean(squared, is_real)}
    if outputs.patch_mask is not None:
        factor = squared.shape[-1] // outputs.patch_mask.shape[-1]
        pixels = jnp.repeat(jnp.repeat(outputs.patch_mask, factor, 1), factor, 2)
        count = jnp.maximum(jnp.sum(pixels, axis=(1, 2)), 1)
        per_row = jnp.sum(jnp.where(pixels, squared, 0.0), axis=(1, 2)) / count
        per_row = per_row / outputs.image.shape[-1]
        terms["rec_masked"] = masked_mean(per_row[:, None], is_real)
    return terms


def mano_losses(
    outputs: Outputs, targets: Targets, has_hand: Bool[Array, " b"], *, rotation: str
) -> dict[str, Float[Array, ""]]:
    """L_mano on rotations and shape; vertices and joints for L_others."""

    def pose(pred: Array) -> Array:
        if rotation == "axis_angle":
            gt = rotations.rotmat_to_aa(targets.hand_rotmat)
            return masked_mean(smooth_l1(rotations.rotmat_to_aa(pred) - gt), has_hand)
        return masked_mean(smooth_l1(pred - targets.hand_rotmat), has_hand)

    def squared(gt: Array):
        return lambda pred: masked_mean((pred - gt) ** 2, has_hand)

    def shape(pred: Array) -> Array:
        return masked_mean(smooth_l1(pred - targets.hand_betas), has_hand)

    return {
        "mano_pose": over_layers(pose, outputs.hand_rotmat),
        "mano_shape": over_layers(shape, outputs.hand_betas),
        "vertices": over_layers(
            squared(targets.hand_vertices_root), outputs.hand_vertices_root
        ),
        "joints": over_layers(
            squared(targets.hand_joints_root), outputs.hand_joints_root
        ),
    }


def object_losses(
    outputs: Outputs, targets: Targets, has_object: Bool[Array, " b"], *, rotation: str
) -> dict[str, Float[Array, ""]]:
    """L_obj on every point's vote of every layer (HOISDF); metres and rotation."""
    gt_rotmat = targets.object_rotmat[:, None]
    gt_trans = targets.object_trans_root[:, None]
    is_rot6d = outputs.object_rotation.shape[-1] == 6

    def rotation_term(vote: Array) -> Array:
        if rotation == "axis_angle":
            aa = (
                rotations.rotmat_to_aa(rotations.rot6d_to_rotmat(vote))
                if is_rot6d
                else vote
            )
            error = aa - rotations.rotmat_to_aa(gt_rotmat)
        else:
            to_rotmat = (
                rotations.rot6d_to_rotmat if is_rot6d else rotations.aa_to_rotmat
            )
            error = to_rotmat(vote) - gt_rotmat
        return masked_mean(smooth_l1(error), has_object)

    def trans_term(vote: Array) -> Array:
        return masked_mean(smooth_l1(vote - gt_trans), has_object)

    return {
        "obj_rotation": over_layers(rotation_term, outputs.object_rotation),
        "obj_translation": over_layers(trans_term, outputs.object_trans_root),
    }


def clamped_l1(
    pred: Float[Array, "*n"], gt: Float[Array, "*n"], *, clamp: float
) -> Float[Array, "*n"]:
    """L1 to distances clamped to +-`clamp`; beyond a clamped truth nothing is due.

    HOISDF clamps the prediction as well: then one beyond the clamp has no gradient
    even where it is wrong, and a network that starts out at "far" stays there.
    """
    is_beyond = (jnp.abs(gt) >= clamp) & (jnp.sign(gt) * pred >= clamp)
    return jnp.where(is_beyond, 0.0, jnp.abs(pred - gt))


def sdf_losses(
    outputs: Outputs, targets: Targets, batch: Batch, *, sdf_clamp: float
) -> dict[str, Float[Array, ""]]:
    """L_SDF on the supervision points."""

    def term(pred: Array, gt: Array, is_counted: Array) -> Array:
        return masked_mean(clamped_l1(pred, gt, clamp=sdf_clamp), is_counted)

    return {
        "sdf_hand": term(outputs.hand_sdf_norm, targets.hand_sdf_norm, batch.has_hand),
        "sdf_object": term(
            outputs.object_sdf_norm, targets.object_sdf_norm, batch.has_object
        ),
    }


def vote_losses(
    outputs: Outputs, targets: Targets, has_hand: Bool[Array, " b"], *, scale: float
) -> dict[str, Float[Array, ""]]:
    """Joint votes of hand points: offset, nearness and aggregate, in mm (HOISDF)."""
    points = MM * outputs.hand_points_norm / scale
    joints = MM * targets.hand_joints_root[:, 1:]
    gt_offset = joints[:, None] - points[:, :, None]
    is_near = jnp.sum(gt_offset**2, axis=-1) < VOTE_RADIUS_MM**2
    is_counted = is_near & has_hand[:, None, None]
    num_pairs = jnp.maximum(jnp.sum(is_counted), 1)

    def offset_term(offsets: Array) -> Array:
        error = jnp.mean(smooth_l1(MM * offsets - gt_offset), axis=-1)
        return jnp.sum(jnp.where(is_counted, error, 0.0)) / num_pairs

    def class_term(logits: Array) -> Array:
        loss = optax.losses.sigmoid_binary_cross_entropy(
            logits, is_near.astype(jnp.float32)
        )
        return masked_mean(loss, has_hand)

    def aggregate_term(offsets: Array, logits: Array) -> Array:
        weight = jax.nn.softmax(logits, axis=1)[..., None]
        voted = jnp.sum(weight * (points[:, :, None] + MM * offsets), axis=1)
        return masked_mean(smooth_l1(voted - joints), has_hand)

    return {
        "vote": over_layers(offset_term, outputs.vote_offsets_root),
        "vote_class": over_layers(class_term, outputs.vote_logits),
        "joint_aggregate": jnp.mean(
            jax.vmap(aggregate_term)(outputs.vote_offsets_root, outputs.vote_logits)
        ),
    }


def dense_losses(
    outputs: Outputs, targets: Targets, batch: Batch
) -> dict[str, Float[Array, ""]]:
    """Heat map of the joints and the masks of hand and object (HOISDF)."""

    def mask_term(logits: Array, label: int) -> Array:
        truth = (batch.segmentation == label).astype(jnp.float32)
        loss = optax.losses.sigmoid_binary_cross_entropy(logits, truth)
        return masked_mean(loss, batch.has_segmentation)

    return {
        "heatmap": masked_mean(
            (outputs.heatmap - targets.heatmap) ** 2, batch.has_hand
        ),
        "hand_mask": mask_term(outputs.hand_mask_logits, HAND),
        "object_mask": mask_term(outputs.object_mask_logits, OBJECT),
    }


def auxiliary_losses(outputs: Outputs, batch: Batch) -> dict[str, Float[Array, ""]]:
    """What the auxiliary head finds in the crop and the scene; none where it is off.

    Boxes and the wrist's pixel: L1 in shares of the view's side; depth: L1 of its
    logarithm; the object's name: cross-entropy.
    """
    views = [(outputs.located, batch), (outputs.scene_located, batch.scene)]
    found = [_located_losses(*view, batch) for view in views if view[0] is not None]
    return {
        name: jnp.mean(jnp.stack([terms[name] for terms in found]))
        for name in (found[0] if found else ())
    }


def _located_losses(
    located: Located, view: Batch | Scene, batch: Batch
) -> dict[str, Float[Array, ""]]:
    size = view.image.shape[-2]
    wrist_px = camera.project(batch.wrist[:, None], view.intrinsics)[:, 0]
    area = jnp.abs(jnp.linalg.det(view.intrinsics[:, :2, :2]))
    log_depth = jnp.log(
        jnp.maximum(batch.wrist[:, 2], camera.MIN_DEPTH) * size / jnp.sqrt(area)
    )

    def share(pred: Array, gt: Array) -> Array:
        gt = jnp.clip(gt, -0.5 * size, 1.5 * size)
        return masked_mean(jnp.abs(pred - gt) / size, batch.is_real)

    named = optax.losses.softmax_cross_entropy_with_integer_labels(
        located.object_logits, batch.object_index
    )
    depth_error = jnp.abs(located.wrist_log_depth - log_depth)
    return {
        "aux_hand_box": share(located.hand_box_px, view.hand_box_px),
        "aux_object_box": share(located.object_box_px, view.object_box_px),
        "aux_wrist_px": share(located.wrist_px, wrist_px),
        "aux_wrist_depth": masked_mean(depth_error[:, None], batch.is_real),
        "aux_object_name": masked_mean(named[:, None], batch.has_object),
    }


# Which weight of the paper scales which terms (lambda_1 .. lambda_5).
GROUPS = {
    "rec": ("rec",),
    "mano": ("mano_pose", "mano_shape"),
    "obj": ("obj_rotation", "obj_translation"),
    "sdf": ("sdf_hand", "sdf_object"),
    "others": (
        "vertices",
        "joints",
        "vote",
        "vote_class",
        "joint_aggregate",
        "heatmap",
        "hand_mask",
        "object_mask",
    ),
    "auxiliary": (  # ours; absent where model.auxiliary is off
        "aux_hand_box",
        "aux_object_box",
        "aux_wrist_px",
        "aux_wrist_depth",
        "aux_object_name",
    ),
}


# Which rows a term, or what is watched, is the mean of.
ROWS = {
    "is_real": (
        "rec",
        "rec_masked",
        "aux_hand_box",
        "aux_object_box",
        "aux_wrist_px",
        "aux_wrist_depth",
    ),
    "has_hand": (
        "mano_pose",
        "mano_shape",
        "vertices",
        "joints",
        "sdf_hand",
        "vote",
        "vote_class",
        "joint_aggregate",
        "heatmap",
        "mje_mm",
    ),
    "has_object": (
        "obj_rotation",
        "obj_translation",
        "sdf_object",
        "aux_object_name",
        "oce_mm",
    ),
    "has_segmentation": ("hand_mask", "object_mask"),
}


def count_rows(batch: Batch) -> dict[str, Float[Array, ""]]:
    """How many rows of a batch count, by the name of their mask."""
    return {name: jnp.sum(getattr(batch, name), dtype=jnp.float32) for name in ROWS}


def _parts_of_a_mean(
    terms: Mapping[str, Array], batch: Batch, mean_rows: Mapping[str, Array]
) -> dict[str, Array]:
    """A part's terms such that their mean over the parts is that of the whole batch.

    Each weighs as much as it has rows that count. (The offsets' is a mean over near
    pairs: exact where all rows have as many.)
    """
    share = {
        name: num / jnp.maximum(mean_rows[name], jnp.finfo(jnp.float32).tiny)
        for name, num in count_rows(batch).items()
    }
    return {
        name: share[mask] * terms[name]
        for mask, names in ROWS.items()
        for name in names
        if name in terms
    }


def total_loss(
    outputs: Outputs,
    targets: Targets,
    batch: Batch,
    *,
    weights: Mapping[str, float],
    rotation: str,
    sdf_clamp: float,
    scale: float,
    mean_rows: Mapping[str, Float[Array, ""]] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """L_total = sum of lambda_g w_t L_t over groups g and their terms t.

    Args:
      mean_rows: where the batch is one of several parts, `count_rows` averaged over
        all of them: the parts' losses then have the whole batch's as their mean.

    Returns:
      The loss, and every term by name: unweighted as `<name>`, weighted as
      `weighted/<name>`; `mje_mm` and `oce_mm` of the answer, to watch.
    """
    raw = {
        **reconstruction_losses(outputs, batch.is_real),
        **mano_losses(outputs, targets, batch.has_hand, rotation=rotation),
        **object_losses(outputs, targets, batch.has_object, rotation=rotation),
        **sdf_losses(outputs, targets, batch, sdf_clamp=sdf_clamp),
        **vote_losses(outputs, targets, batch.has_hand, scale=scale),
        **dense_losses(outputs, targets, batch),
        **auxiliary_losses(outputs, batch),
        **_watched(outputs, targets, batch),
    }
    if mean_rows is not None:
        raw = _parts_of_a_mean(raw, batch, mean_rows)
    weighted = {
        name: weights[group] * weights.get(name, 1.0) * raw[name]
        if name != group
        else weights[group] * raw[name]
        for group, names in GROUPS.items()
        for name in names
        if name in raw
    }
    loss = sum(weighted.values())
    terms = {**raw, **{f"weighted/{name}": value for name, value in weighted.items()}}
    return loss, {**terms, "loss": loss}


def _watched(
    outputs: Outputs, targets: Targets, batch: Batch
) -> dict[str, Float[Array, ""]]:
    joint = outputs.hand_joints_root[-1] - targets.hand_joints_root
    trans = outputs.object_trans - batch.object_trans
    distance = jnp.sqrt(jnp.sum(joint**2, axis=-1))
    offset = jnp.sqrt(jnp.sum(trans**2, axis=-1, keepdims=True))
    return {
        "mje_mm": MM * masked_mean(distance, batch.has_hand),
        "oce_mm": MM * masked_mean(offset, batch.has_object),
    }
