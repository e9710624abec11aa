"""A toy hand, two toy objects, a batch of toy crops and the smallest of models."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import trimesh

from homae_jax.geometry import camera, rotations
from homae_jax.hand.mano import ManoModel, mano_forward
from homae_jax.models import dinov2
from homae_jax.objects.sdf_bake import bake_sdf, nearby_faces
from homae_jax.schema import Batch, ObjectTemplates, Targets
from homae_jax.targets import compute_targets

IMAGE_SIZE = 64
VARIANT = "vit_test"  # a ViT of a few thousand parameters, known to tests only
dinov2.VARIANTS[VARIANT] = dinov2.VARIANTS["vit_tiny"]._replace(
    width=32,
    depth=1,
    num_heads=2,
    mlp_hidden=32,
    stem_widths=(8, 8, 8, 8, 16),
    stem_blocks=(0, 0, 0, 0, 1),
)
FINGERTIPS = "ho3d"
WRIST = np.array([0.0, 0.0, 0.5], np.float32)


def on_device(tree):
    """Every array of a tree as a jax array."""
    return jax.tree.map(jax.numpy.asarray, tree)


def toy_mano() -> ManoModel:
    """A closed lump with MANO's shapes: not a hand, but every axis is in use."""
    rng = np.random.default_rng(0)
    ball = trimesh.creation.uv_sphere(radius=0.08, count=(28, 30))
    vertices = np.resize(ball.vertices, (778, 3)).astype(np.float32)
    faces = np.asarray(ball.faces, np.int32) % 778
    faces = np.resize(faces, (1552, 3))
    weights = rng.random((778, 16)).astype(np.float32) ** 8
    regressor = rng.random((16, 778)).astype(np.float32) ** 8
    return on_device(
        ManoModel(
            template_vertices=vertices,
            faces=faces[:1538],
            closed_faces=faces,
            shape_basis=0.003 * rng.normal(size=(778, 3, 10)).astype(np.float32),
            pose_basis=0.0005 * rng.normal(size=(778, 3, 135)).astype(np.float32),
            joint_regressor=regressor / regressor.sum(1, keepdims=True),
            skinning_weights=weights / weights.sum(1, keepdims=True),
            hand_components=np.eye(45, dtype=np.float32),
            hand_mean=np.zeros(45, np.float32),
        )
    )


@functools.cache
def toy_templates() -> ObjectTemplates:
    """A box and a ball with 1,000 vertices each and a coarse distance lattice."""
    rows = []
    for mesh in (
        trimesh.creation.box((0.06, 0.08, 0.12)).subdivide_to_size(0.009),
        trimesh.creation.icosphere(subdivisions=3, radius=0.05),
    ):
        points = np.asarray(mesh.vertices, np.float32)
        box = np.array([[*p] for p in np.ndindex(2, 2, 2)])
        faces = np.asarray(mesh.faces, np.int32)
        faces = faces[(faces < 1000).all(1)]
        lattice = bake_sdf(points, faces, 8, 0.05)
        rows.append(
            ObjectTemplates(
                vertices=np.resize(points, (1000, 3)),
                faces=_pad(faces, 2000),
                corners=np.where(box, points.max(0), points.min(0)),
                sdf_grid=lattice.values,
                sdf_origin=lattice.origin,
                sdf_pitch=np.float32(lattice.pitch),
                sdf_nearest=lattice.nearest,
                nearby_faces=_pad(nearby_faces(points, faces, 12), 2000),
            )
        )
    return on_device(jax.tree.map(lambda *row: np.stack(row), *rows))


def _pad(faces: np.ndarray, num: int) -> np.ndarray:
    return np.pad(faces, ((0, num - len(faces)), (0, 0)))


def toy_batch(num: int = 2, seed: int = 0) -> Batch:
    """Consistent labels: joints are MANO's, boxes and masks fit the projections."""
    rng = np.random.default_rng(seed)
    pose = 0.3 * rng.normal(size=(num, 16, 3)).astype(np.float32)
    betas = 0.5 * rng.normal(size=(num, 10)).astype(np.float32)
    rotmat = rotations.aa_to_rotmat(jax.numpy.asarray(pose))
    joints = np.asarray(
        mano_forward(
            toy_mano(), rotmat, jax.numpy.asarray(betas), fingertips=FINGERTIPS
        ).joints
    )
    joints = joints - joints[:, :1] + WRIST
    intrinsics = np.array([[120.0, 0, 31.5], [0, 125.0, 31.5], [0, 0, 1]], np.float32)
    center = WRIST + np.array([0.02, -0.01, 0.0], np.float32)
    offset = 0.01 * rng.normal(size=(num, 3)).astype(np.float32)
    pixels = camera.project(np.asarray(joints), intrinsics)
    hand_box = np.concatenate([pixels.min(1), pixels.max(1)], axis=-1)
    object_rotmat = rotations.random_rotmat(jax.random.key(seed), (num,))
    return on_device(
        Batch(
            image=rng.integers(
                0, 256, (num, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8
            ),
            segmentation=rng.integers(0, 3, (num, 32, 32), dtype=np.uint8),
            intrinsics=np.tile(intrinsics, (num, 1, 1)),
            hand_box_px=hand_box.astype(np.float32),
            object_box_px=np.tile(np.array([20, 18, 44, 50], np.float32), (num, 1)),
            wrist=np.tile(WRIST, (num, 1)),
            object_center=np.tile(center, (num, 1)),
            joints=joints.astype(np.float32),
            hand_pose=pose,
            hand_betas=betas,
            object_rotmat=np.asarray(object_rotmat, np.float32),
            object_trans=center[None] + offset,
            object_index=np.arange(num, dtype=np.int32) % 2,
            has_hand=np.ones(num, bool),
            has_object=np.ones(num, bool),
            has_segmentation=np.ones(num, bool),
            sample_index=np.arange(num, dtype=np.int32),
            is_real=np.ones(num, bool),
        )
    )


def toy_model_options() -> dict:
    """`Homae(**...)` of a few thousand parameters."""
    return {
        "image_size": IMAGE_SIZE,
        "fingertips": FINGERTIPS,
        "dtype": "float32",
        "encoder": {
            "variant": VARIANT,
            "weights": "",
            "freeze": False,
            "width_out": 32,
            "attention": "xla",
            "remat": False,
            "drop_path": 0.0,
        },
        "mask": {
            "enabled": True,
            "target": "object",
            "patch": 16,
            "num_patches": 4,
            "object_share": 0.5,
            "fill": "gaussian",
        },
        "decoder": {
            "widths": (16, 16, 8, 8),
            "hidden": (16, 16, 8, 8),
            "multiscale": True,
            "width_point": 15,
        },
        "points": {
            "num_hand": 12,
            "num_object": 8,
            "scale": 3.1,
            "octaves": 2,
            "grid_size": 8,
            "sampler": "dense",
            "coarse_factor": 4,
            "refine_share": 0.25,
        },
        "sdf": {"width": 48, "depth": 4, "dropout": 0.1},
        "pointnet": {"widths": (8, 8)},
        "fusion": {
            "explicit": True,
            "sdf_sign": 1,
            "beta_init": 0.1,
            "beta_floor": 2e-3,
        },
        "heads": {
            "num_heads": 2,
            "width_mlp": 32,
            "dropout": 0.1,
            "hand_encoder_layers": 2,
            "hand_decoder_layers": 2,
            "object_encoder_layers": 1,
            "object_rotation": "rot6d",
            "cross_points": False,
        },
    }


def toy_target_options() -> dict:
    """`compute_targets(**...)` that fits `toy_model_options`."""
    return {
        "fingertips": FINGERTIPS,
        "scale": 3.1,
        "num_hand": 12,
        "num_object": 8,
        "num_hand_sdf": 10,
        "num_object_sdf": 6,
        "near_share": 0.5,
        "near_sigma": 0.03,
        "sdf_clamp": 0.15,
        "object_sdf": "exact",
        "heatmap_sigma_px": 1.25,
    }


def toy_targets(batch: Batch, *, jitter: float = 0.0) -> Targets:
    """A batch's targets; points about the surfaces scattered by `jitter` metres."""
    return jax.jit(_targets_of(batch, jitter))(jax.random.key(0))


def blank_targets(batch: Batch) -> Targets:
    """Zeros in the shapes of a batch's targets."""
    shapes = jax.eval_shape(_targets_of(batch, 0.0), jax.random.key(0))
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)


def _targets_of(batch: Batch, jitter: float) -> Callable[[jax.Array], Targets]:
    return functools.partial(
        compute_targets,
        batch=batch,
        mano=toy_mano(),
        templates=toy_templates(),
        point_jitter=jax.numpy.float32(jitter),
        **toy_target_options(),
    )


def toy_parameters(model, *args, **keywords):
    """Random parameters of a model without compiling or running its `init`."""
    key = jax.random.key(0)
    rngs = {"params": key, "mask": key, "dropout": key}
    shapes = jax.eval_shape(lambda: model.init(rngs, *args, **keywords))
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        spread = (1 / leaf.shape[0]) ** 0.5 if leaf.ndim > 1 else 0.02
        mean = {"scale": 1.0, "beta": 0.1}.get(name, 0.0)
        return jax.numpy.asarray(rng.normal(mean, spread, leaf.shape), "float32")

    return jax.tree.map_with_path(draw, shapes)
