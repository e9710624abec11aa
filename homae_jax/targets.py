"""What a batch supervises, computed on the device inside the jitted step.

No files: posed meshes come from the MANO layer and the object templates, points from
their surfaces, signed distances from the meshes (HOISDF ships these as terabytes).
Everything is float32. Frames and units as in schema.py. Rows without a label get
targets of the rest pose; losses.py masks them.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from homae_jax.errors import UserError
from homae_jax.geometry import camera, mesh_sdf, rotations
from homae_jax.hand import mano as mano_lib
from homae_jax.schema import Batch, ObjectTemplates, Targets

HEATMAP_PEAK = 255.0  # HOISDF
HEATMAP_STRIDE = 2
REST_OBJECT_DEPTH = 1.0  # metres from its centre, where an unlabelled object is put


def point_jitter(
    step: Int[Array, ""], *, steps_per_epoch: int, jitter: Sequence[float]
) -> Float[Array, ""]:
    """Half-width of the noise on pose points: grows within each epoch (HOISDF).

    The epoch is cut at 30 % and 70 % for the three values, in normalised units.
    """
    progress = (step % steps_per_epoch) / steps_per_epoch
    late = jnp.where(progress < 0.7, jitter[1], jitter[2])
    return jnp.where(progress < 0.3, jitter[0], late).astype(jnp.float32)


def compute_targets(
    key: Array,
    batch: Batch,
    *,
    mano: mano_lib.ManoModel,
    templates: ObjectTemplates,
    point_jitter: Float[Array, ""],
    fingertips: str,
    scale: float,
    num_hand: int,
    num_object: int,
    num_hand_sdf: int,
    num_object_sdf: int,
    near_share: float,
    near_sigma: float,
    sdf_clamp: float,
    object_sdf: str,
    heatmap_sigma_px: float,
) -> Targets:
    """Computes the targets of a batch (HOMAE sec. III-B; HOISDF sec. on training).

    Args:
      key: drives the choice of points, fresh each step.
      point_jitter: half-width of the uniform noise on pose points, normalised.
      near_sigma: metres; spread of the supervision points drawn near a surface.
      sdf_clamp: distances are clamped to +- this, normalised.
      object_sdf: "exact" (point to triangle) or "grid" (baked lattice).
    """
    keys = jax.random.split(key, 6)
    hand_pose = jnp.where(batch.has_hand[:, None, None], batch.hand_pose, 0.0)
    hand_betas = jnp.where(batch.has_hand[:, None], batch.hand_betas, 0.0)
    hand_rotmat = rotations.aa_to_rotmat(hand_pose)
    posed = mano_lib.mano_forward(mano, hand_rotmat, hand_betas, fingertips=fingertips)
    wrist = posed.joints[:, :1]
    hand_vertices = posed.vertices - wrist
    hand_faces = jnp.broadcast_to(
        mano.closed_faces, (hand_vertices.shape[0], *mano.closed_faces.shape)
    )

    object_rotmat, object_trans = _object_pose_root(batch)
    obj = jax.tree.map(lambda table: table[batch.object_index], templates)
    object_vertices = _pose(obj.vertices, object_rotmat, object_trans)

    spread = functools.partial(_spread, sigma=near_sigma, half_cube=1.0 / scale)
    hand_near, hand_points = _draw_points(
        keys[0], hand_vertices, hand_faces, num_hand_sdf, num_hand, near_share
    )
    object_near, object_points = _draw_points(
        keys[1], object_vertices, obj.faces, num_object_sdf, num_object, near_share
    )
    hand_sdf_points = spread(keys[2], hand_near, num_hand_sdf)
    object_sdf_points = spread(keys[3], object_near, num_object_sdf)
    # The capped hand is closed: crossings of a ray are exact, at a third of the cost.
    hand_sdf = mesh_sdf.signed_distance_batch(
        hand_sdf_points, hand_vertices, mano.closed_faces, sign="ray"
    )
    in_model_frame = _unpose(object_sdf_points, object_rotmat, object_trans)
    sdf = _object_distance(in_model_frame, obj, object_sdf)

    return Targets(
        hand_vertices_root=hand_vertices,
        hand_joints_root=posed.joints - wrist,
        hand_rotmat=hand_rotmat,
        hand_betas=hand_betas,
        object_rotmat=object_rotmat,
        object_trans_root=object_trans,
        hand_sdf_points_norm=hand_sdf_points * scale,
        hand_sdf_norm=jnp.clip(hand_sdf * scale, -sdf_clamp, sdf_clamp),
        object_sdf_points_norm=object_sdf_points * scale,
        object_sdf_norm=jnp.clip(sdf * scale, -sdf_clamp, sdf_clamp),
        hand_points_norm=_jittered(keys[4], hand_points * scale, point_jitter),
        object_points_norm=_jittered(keys[5], object_points * scale, point_jitter),
        heatmap=joint_heatmap(batch, sigma_px=heatmap_sigma_px),
    )


def joint_heatmap(batch: Batch, *, sigma_px: float) -> Float[Array, "b s s"]:
    """One channel: the sum of 21 Gaussians of peak 255 (HOISDF), rows without: 0."""
    size = batch.segmentation.shape[-1]
    has_hand = batch.has_hand[:, None, None]
    ahead = jnp.array([0.0, 0.0, REST_OBJECT_DEPTH])[None, None]
    joints = jnp.where(has_hand, batch.joints, ahead)
    pixels = camera.project(joints, batch.intrinsics)
    cells = (pixels + 0.5) / HEATMAP_STRIDE - 0.5
    axis = jnp.arange(size, dtype=jnp.float32)
    x, y = (
        jnp.exp(-((axis[None, None] - cells[..., i, None]) ** 2) / (2 * sigma_px**2))
        for i in (0, 1)
    )
    total = jnp.einsum("bjh,bjw->bhw", y, x, precision="highest") * HEATMAP_PEAK
    return jnp.where(has_hand, total, 0.0)


def _object_pose_root(batch: Batch) -> tuple[Array, Array]:
    """Object pose relative to object_center; unlabelled rows: out of the way."""
    has_object = batch.has_object
    rotmat = jnp.where(has_object[:, None, None], batch.object_rotmat, jnp.eye(3)[None])
    away = jnp.array([0.0, 0.0, REST_OBJECT_DEPTH])[None]
    trans = jnp.where(
        has_object[:, None], batch.object_trans - batch.object_center, away
    )
    return rotmat, trans


def _pose(vertices: Array, rotmat: Array, trans: Array) -> Array:
    posed = jnp.einsum("bij,bvj->bvi", rotmat, vertices, precision="highest")
    return posed + trans[:, None]


def _unpose(points: Array, rotmat: Array, trans: Array) -> Array:
    away = points - trans[:, None]
    return jnp.einsum("bpi,bij->bpj", away, rotmat, precision="highest")


def _jittered(key: Array, points_norm: Array, half_width: Array) -> Array:
    noise = jax.random.uniform(key, points_norm.shape, minval=-1.0, maxval=1.0)
    return points_norm + noise * half_width


def _draw_points(
    key: Array,
    vertices: Array,
    faces: Array,
    num_supervised: int,
    num_pose: int,
    near_share: float,
) -> tuple[Array, Array]:
    """Surface points: those to perturb for supervision, and the pose points."""
    num_near = round(num_supervised * near_share)
    keys = jax.random.split(key, vertices.shape[0])
    points = jax.vmap(mesh_sdf.sample_surface, in_axes=(0, 0, 0, None))(
        keys, vertices, faces, num_near + num_pose
    )
    return points[:, :num_near], points[:, num_near:]


def _spread(key: Array, near: Array, num: int, sigma: float, half_cube: float) -> Array:
    """Perturbs `near` and fills up to `num` with uniform points of the cube."""
    near_key, cube_key = jax.random.split(key)
    near = near + sigma * jax.random.normal(near_key, near.shape)
    shape = (near.shape[0], num - near.shape[1], 3)
    uniform = jax.random.uniform(cube_key, shape, minval=-half_cube, maxval=half_cube)
    return jnp.concatenate([near, uniform], axis=1)


def _object_distance(points: Array, obj: ObjectTemplates, method: str) -> Array:
    """Signed distances of points in the model frame, metres."""
    if method == "exact":
        return mesh_sdf.signed_distance_batch(points, obj.vertices, obj.faces)
    if method == "grid":
        lattice = mesh_sdf.SdfGrid(
            obj.sdf_grid, obj.sdf_origin, obj.sdf_pitch, obj.sdf_nearest
        )
        return jax.vmap(mesh_sdf.lattice_signed_distance)(
            points, obj.vertices, obj.faces, obj.nearby_faces, lattice
        )
    raise UserError(f'targets.object_sdf="{method}": use "exact" or "grid"')
