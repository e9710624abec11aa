"""Pinhole cameras, crops and the two camera frames; for numpy and jax arrays alike.

Pixels: the centre of the top-left pixel is (0, 0), x to the right, y down. OpenCV
camera frame: x right, y down, z forward; OpenGL (``_gl``): x right, y up, z backward.
No distortion.

Intrinsics are full matrices whose last row is (0, 0, 1). Those of a turned crop have a
general 2x2 block wherever fx and fy differ, so nobody may read fx, fy, cx, cy off the
diagonal and the last column alone: multiply and invert the whole matrix.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Array = jax.Array | np.ndarray

GL_TO_CV = np.diag([1.0, -1.0, -1.0])
_GL_SIGNS = np.diag(GL_TO_CV)
MIN_DEPTH = 1e-3  # metres; nearer points project as if they were this far


def project(
    points: Float[Array, "*b p 3"], intrinsics: Float[Array, "*k 3 3"]
) -> Float[Array, "*b p 2"]:
    """Pixels of camera-frame points; depth is floored, so the result is finite."""
    xp = jnp if isinstance(points, jax.Array) else np
    z = points[..., 2]
    z = xp.where(z > MIN_DEPTH, z, MIN_DEPTH)
    x, y = points[..., 0] / z, points[..., 1] / z
    # Written out: a CPU takes longer over a product with a matrix of two columns.
    k = intrinsics[..., None, :, :]
    return xp.stack(
        [x * k[..., i, 0] + y * k[..., i, 1] + k[..., i, 2] for i in range(2)], axis=-1
    )


def unproject(
    points_px: Float[Array, "*b p 2"],
    depth: Float[Array, "*b p"],
    intrinsics: Float[Array, "*k 3 3"],
) -> Float[Array, "*b p 3"]:
    """Camera-frame points at which pixels lie, given their z."""
    xp = jnp if isinstance(points_px, jax.Array) else np
    homogeneous = xp.concatenate([points_px, xp.ones_like(points_px[..., :1])], axis=-1)
    rays = _matmul(homogeneous, xp.swapaxes(xp.linalg.inv(intrinsics), -1, -2))
    return rays * depth[..., None]


def _matmul(a: Array, b: Array) -> Array:
    """Product in full float32: accelerators would round the factors otherwise."""
    if isinstance(a, jax.Array):
        return jnp.matmul(a, b, precision="highest")
    return a @ b


def points_gl_to_cv(points_gl: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """OpenGL camera points -> OpenCV; its own inverse."""
    signs = _GL_SIGNS.astype(points_gl.dtype)
    return points_gl * signs.reshape((1,) * (points_gl.ndim - 1) + (3,))


def pose_gl_to_cv(
    rotmat_gl: Float[Array, "3 3"], trans_gl: Float[Array, " 3"]
) -> tuple[Float[Array, "3 3"], Float[Array, " 3"]]:
    """cam_T_obj from OpenGL to OpenCV: left multiplication only (HO-3D, HOISDF).

    The model frame is untouched; its own inverse.
    """
    signs = _GL_SIGNS.astype(rotmat_gl.dtype)
    return rotmat_gl * signs[:, None], trans_gl * signs.astype(trans_gl.dtype)


def roll_rotmat(angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about the optical axis, from x towards y (clockwise in the image)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def crop_affine(
    center_px: Float[np.ndarray, " 2"], side_px: float, size_px: int, angle: float
) -> Float[np.ndarray, "3 3"]:
    """Pixels of the picture -> pixels of a square crop turned by `angle`.

    `center_px` lands on the middle of the crop, ((size - 1) / 2, (size - 1) / 2).
    """
    scale = size_px / side_px
    affine = roll_rotmat(angle)
    affine[:2, :2] *= scale
    affine[:2, 2] = (size_px - 1) / 2 - affine[:2, :2] @ center_px
    return affine


def crop_intrinsics(
    affine: Float[np.ndarray, "3 3"], intrinsics: Float[np.ndarray, "3 3"], angle: float
) -> Float[np.ndarray, "3 3"]:
    """K' with K' (Rz X) = A (K X) for every X: exact also when fx != fy.

    All 3D labels turn with the crop by Rz = roll_rotmat(angle), and K' = A K Rz^T. With
    fx = fy that is the plain pinhole matrix (HOISDF takes this case for granted); else
    its upper-left block is symmetric with |fx - fy| / 2 x scale x |sin 2 angle| off
    the diagonal.
    """
    return affine @ intrinsics @ roll_rotmat(angle).T
