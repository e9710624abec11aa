"""Rotations: axis-angle (``_aa``), matrix (``_rotmat``), 6D (``_rot6d``), quaternion.

A matrix maps column vectors, R x. 6D is the first two columns, one after the other
(Zhou et al. 2019). Quaternions are x, y, z, w. Angles are radians. Values and gradients
are finite everywhere a rotation is given, at the identity and at pi included.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from homae_jax.geometry.numerics import TINY, safe_divide, safe_norm

SMALL_ANGLE_SQUARED = 1e-4  # below, three terms of the series are exact in float32
DEGENERATE = 1e-6  # sums of singular values below this share of the largest are 0


def skew(v: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """The matrix of the cross product v x."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = jnp.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return jnp.stack(rows, axis=-1).reshape(*v.shape[:-1], 3, 3)


def aa_to_rotmat(aa: Float[Array, "*b 3"]) -> Float[Array, "*b 3 3"]:
    """Rodrigues' formula: 1 + sin(t)/t K + (1 - cos(t))/t^2 K^2, series near 0.

    1 - cos(t) is written 2 sin(t/2)^2, which does not cancel.
    """
    squared = jnp.sum(aa**2, axis=-1)
    is_small = squared < SMALL_ANGLE_SQUARED
    angle = jnp.sqrt(jnp.where(is_small, 1.0, squared))
    half_sinc = 2 * jnp.sin(angle / 2) / angle
    a = jnp.where(is_small, 1 - squared / 6 + squared**2 / 120, jnp.sin(angle) / angle)
    b = jnp.where(is_small, 0.5 - squared / 24 + squared**2 / 720, half_sinc**2 / 2)
    k = skew(aa)
    k_squared = jnp.matmul(k, k, precision="highest")
    eye = jnp.broadcast_to(jnp.eye(3, dtype=aa.dtype), k.shape)
    return eye + a[..., None, None] * k + b[..., None, None] * k_squared


def rotmat_to_quat(rotmat: Float[Array, "*b 3 3"]) -> Float[Array, "*b 4"]:
    """Unit quaternion (x, y, z, w) with w >= 0, by Shepperd's choice of pivot."""
    m = rotmat
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = (
        m[..., 1, 0] + m[..., 0, 1],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 2, 1] + m[..., 1, 2],
    )
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    # Row i is 4 q_i q: the row with the largest diagonal is best conditioned.
    rows = jnp.stack(
        [
            jnp.stack([1 + xx - yy - zz, xy, xz, wx], axis=-1),
            jnp.stack([xy, 1 - xx + yy - zz, yz, wy], axis=-1),
            jnp.stack([xz, yz, 1 - xx - yy + zz, wz], axis=-1),
            jnp.stack([wx, wy, wz, 1 + xx + yy + zz], axis=-1),
        ],
        axis=-2,
    )
    diagonal = jnp.diagonal(rows, axis1=-2, axis2=-1)
    pivot = jnp.argmax(diagonal, axis=-1)
    row = jnp.take_along_axis(rows, pivot[..., None, None], axis=-2)[..., 0, :]
    quat = row / jnp.sqrt(jnp.maximum(jnp.sum(row**2, axis=-1, keepdims=True), TINY))
    return jnp.where(quat[..., 3:] < 0, -quat, quat)


def quat_to_rotmat(quat: Float[Array, "*b 4"]) -> Float[Array, "*b 3 3"]:
    """Rotation of a quaternion (x, y, z, w) of any length but 0."""
    x, y, z, w = (quat[..., i] for i in range(4))
    s = 2.0 / jnp.maximum(jnp.sum(quat**2, axis=-1), TINY)
    rows = [
        1 - s * (y * y + z * z),
        s * (x * y - w * z),
        s * (x * z + w * y),
        s * (x * y + w * z),
        1 - s * (x * x + z * z),
        s * (y * z - w * x),
        s * (x * z - w * y),
        s * (y * z + w * x),
        1 - s * (x * x + y * y),
    ]
    return jnp.stack(rows, axis=-1).reshape(*quat.shape[:-1], 3, 3)


def rotmat_to_aa(rotmat: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3"]:
    """Axis-angle with an angle in [0, pi]; at pi either sign of the axis is right."""
    quat = rotmat_to_quat(rotmat)
    v, w = quat[..., :3], quat[..., 3]
    squared = jnp.sum(v**2, axis=-1)
    is_small = squared < SMALL_ANGLE_SQUARED
    sine = jnp.sqrt(jnp.where(is_small, 1.0, squared))
    series = 2.0 / jnp.where(is_small, w, 1.0)
    series = series * (1 - squared / (3 * jnp.where(is_small, w, 1.0) ** 2))
    factor = jnp.where(is_small, series, 2.0 * jnp.arctan2(sine, w) / sine)
    return v * factor[..., None]


def rot6d_to_rotmat(rot6d: Float[Array, "*b 6"]) -> Float[Array, "*b 3 3"]:
    """Gram-Schmidt on the two columns; finite for parallel or zero columns too."""
    a, b = rot6d[..., :3], rot6d[..., 3:]
    x = safe_divide(a, jnp.broadcast_to(safe_norm(a)[..., None], a.shape))
    b = b - jnp.sum(x * b, axis=-1, keepdims=True) * x
    y = safe_divide(b, jnp.broadcast_to(safe_norm(b)[..., None], b.shape))
    return jnp.stack([x, y, jnp.cross(x, y)], axis=-1)


def rotmat_to_rot6d(rotmat: Float[Array, "*b 3 3"]) -> Float[Array, "*b 6"]:
    """The first two columns, one after the other."""
    return jnp.concatenate([rotmat[..., 0], rotmat[..., 1]], axis=-1)


def angle_between(
    a_rotmat: Float[Array, "*b 3 3"], b_rotmat: Float[Array, "*b 3 3"]
) -> Float[Array, "*b"]:
    """Geodesic distance in [0, pi], accurate at both ends (gradient 0 at 0 and pi)."""
    relative = jnp.matmul(jnp.swapaxes(a_rotmat, -1, -2), b_rotmat, precision="highest")
    quat = rotmat_to_quat(relative)
    return 2.0 * jnp.arctan2(safe_norm(quat[..., :3]), quat[..., 3])


def mean_rotmat(
    rotmats: Float[Array, "*b n 3 3"], weights: Float[Array, "*b n"] | None = None
) -> Float[Array, "*b 3 3"]:
    """Chordal mean over n rotations: the rotation nearest to their (weighted) mean."""
    if weights is None:
        return project_to_so3(jnp.mean(rotmats, axis=-3))
    return project_to_so3(jnp.sum(rotmats * weights[..., None, None], axis=-3))


@jax.custom_jvp
def project_to_so3(matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """The rotation nearest to a matrix (Frobenius), by SVD: also the chordal mean.

    Its derivative is that of the polar factor, finite where the SVD's is not (equal
    singular values, as in the mean of equal rotations). Where no nearest rotation is
    unique (the zero matrix, a rank of 1), one is returned and the derivative along
    the free directions is 0.
    """
    return _polar(matrix)[0]


def _polar(matrix: Array) -> tuple[Array, Array, Array, Array]:
    """U V^T with the last singular vector flipped where a reflection would win."""
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    sign = jnp.sign(jnp.linalg.det(_product(u, vt)))
    last = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
    vt = vt * last[..., None]
    return _product(u, vt), u, s * last, vt


def _product(*matrices: Array) -> Array:
    return functools.reduce(
        functools.partial(jnp.matmul, precision="highest"), matrices
    )


@project_to_so3.defjvp
def _project_to_so3_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (matrix,), (tangent,) = primals, tangents
    rotmat, u, s, vt = _polar(matrix)
    inner = _product(jnp.swapaxes(u, -1, -2), tangent, jnp.swapaxes(vt, -1, -2))
    antisymmetric = inner - jnp.swapaxes(inner, -1, -2)
    sums = s[..., :, None] + s[..., None, :]
    is_defined = jnp.abs(sums) > DEGENERATE * jnp.maximum(s[..., :1, None], TINY)
    turn = jnp.where(is_defined, antisymmetric / jnp.where(is_defined, sums, 1.0), 0.0)
    return rotmat, _product(u, turn, vt)


def random_rotmat(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*b 3 3"]:
    """Uniform rotations of a batch shape."""
    return quat_to_rotmat(jax.random.normal(key, (*shape, 4)))
