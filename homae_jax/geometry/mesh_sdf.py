"""Signed distance from points to triangle meshes, on the device; negative inside.

Unsigned distance: exact, branch-free point to triangle. Sign: generalised winding number
(Jacobson et al. 2013) by the solid angles of Van Oosterom and Strackee 1983, right on
open and self-overlapping meshes too, where parity is not; or signed ray crossings for
closed meshes, cheaper on a CPU. Products are written out component by component: a
matrix product would run in TF32 on a GPU. Keep inputs near the origin (float32).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from homae_jax.geometry.numerics import TINY

ZERO_AREA = 1e-20  # squared length of a normal below which a face is a line
Vector = tuple[Array, Array, Array]


def signed_distance(
    points: Float[Array, "p 3"],
    vertices: Float[Array, "v 3"],
    faces: Int[Array, "f 3"],
    *,
    sign: str = "winding",
    face_chunk: int | None = None,
) -> Float[Array, " p"]:
    """Signed distance of one point set to one mesh.

    Args:
      sign: "winding", or "ray" for closed meshes.
      face_chunk: bounds memory to points x face_chunk.
    """
    if sign not in ("winding", "ray"):
        raise ValueError(f'sign="{sign}": use "winding" or "ray"')
    triangles = vertices[faces]
    if face_chunk is None:
        squared, turns = _squared_and_turns(points, triangles, sign)
    else:
        pad = -triangles.shape[0] % face_chunk
        # A face of three equal far points: no area, no solid angle.
        far = jnp.full((pad, 3, 3), 1e3, triangles.dtype)
        chunks = jnp.concatenate([triangles, far]).reshape(-1, face_chunk, 3, 3)

        def fold(carry: tuple, chunk: Array) -> tuple:
            squared, turns = _squared_and_turns(points, chunk, sign)
            return (jnp.minimum(carry[0], squared), carry[1] + turns), None

        start = jnp.full(points.shape[0], jnp.inf), jnp.zeros(points.shape[0])
        (squared, turns), _ = jax.lax.scan(fold, start, chunks)
    return jnp.sqrt(squared) * jnp.where(turns > 0.5, -1.0, 1.0)


def signed_distance_batch(
    points: Float[Array, "b p 3"],
    vertices: Float[Array, "b v 3"],
    faces: Int[Array, "f 3"] | Int[Array, "b f 3"],
    *,
    sign: str = "winding",
) -> Float[Array, "b p"]:
    """Row by row (on a CPU twice as fast as vmap, and 1 / b of its memory)."""

    def one(row: tuple) -> Array:
        return signed_distance(row[0], row[1], row[2], sign=sign)

    if faces.ndim == 2:
        faces = jnp.broadcast_to(faces, (points.shape[0], *faces.shape))
    return jax.lax.map(one, (points, vertices, faces))


def _components(x: Array) -> Vector:
    return x[..., 0], x[..., 1], x[..., 2]


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _squared_and_turns(
    points: Array, triangles: Array, sign: str
) -> tuple[Array, Array]:
    p = _components(points[:, None])
    a, b, c = (_components(triangles[None, :, corner]) for corner in range(3))
    squared = jnp.min(_squared_distance(p, a, b, c), axis=1)
    if sign == "ray":
        return squared, jnp.sum(_crossings(p, a, b, c), axis=1)
    return squared, jnp.sum(_solid_angle(p, a, b, c), axis=1) / (4 * jnp.pi)


def _squared_distance(p: Vector, a: Vector, b: Vector, c: Vector) -> Array:
    """To the face where the point lies over it, else to the nearest edge."""
    ab, bc, ca = _minus(b, a), _minus(c, b), _minus(a, c)
    pa, pb, pc = _minus(p, a), _minus(p, b), _minus(p, c)
    normal = _cross(ab, _minus(c, a))
    area = _dot(normal, normal)
    is_over = (
        (_dot(_cross(normal, ab), pa) >= 0)
        & (_dot(_cross(normal, bc), pb) >= 0)
        & (_dot(_cross(normal, ca), pc) >= 0)
        & (area > ZERO_AREA)
    )

    def to_edge(edge: Vector, q: Vector) -> Array:
        t = _dot(edge, q) / jnp.maximum(_dot(edge, edge), ZERO_AREA)
        t = jnp.clip(t, 0.0, 1.0)
        rest = (q[0] - edge[0] * t, q[1] - edge[1] * t, q[2] - edge[2] * t)
        return _dot(rest, rest)

    to_plane = _dot(normal, pa) ** 2 / jnp.maximum(area, ZERO_AREA)
    edges = jnp.minimum(jnp.minimum(to_edge(ab, pa), to_edge(bc, pb)), to_edge(ca, pc))
    return jnp.where(is_over, to_plane, edges)


def _solid_angle(p: Vector, a: Vector, b: Vector, c: Vector) -> Array:
    """Signed solid angle of a face seen from a point: 4 pi in all from inside."""
    pa, pb, pc = _minus(a, p), _minus(b, p), _minus(c, p)
    la, lb, lc = (jnp.sqrt(_dot(q, q)) for q in (pa, pb, pc))
    # The triple product, of differences that do not cancel far from the face.
    volume = _dot(pa, _cross(_minus(b, a), _minus(c, a)))
    cosine = la * lb * lc + _dot(pa, pb) * lc + _dot(pb, pc) * la + _dot(pc, pa) * lb
    return 2 * jnp.arctan2(volume, cosine)


def _crossings(p: Vector, a: Vector, b: Vector, c: Vector) -> Array:
    """Signed crossings of the +x ray: +1 where it leaves the body."""
    y, z = p[1], p[2]

    def edge(u: Vector, v: Vector) -> Array:
        return (v[1] - u[1]) * (z - u[2]) - (v[2] - u[2]) * (y - u[1])

    w0, w1, w2 = edge(b, c), edge(c, a), edge(a, b)
    total = w0 + w1 + w2
    is_out = (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (total > 0)
    is_in = (w0 < 0) & (w1 < 0) & (w2 < 0)
    x = w0 * a[0] + w1 * b[0] + w2 * c[0]
    is_ahead = jnp.where(is_out, x > p[0] * total, x < p[0] * total)
    turn = jnp.where(is_out, 1.0, -1.0)
    return jnp.where(is_ahead & (is_out | is_in), turn, 0.0)


def sample_surface(
    key: PRNGKeyArray,
    vertices: Float[Array, "v 3"],
    faces: Int[Array, "f 3"],
    num: int,
) -> Float[Array, "n 3"]:
    """Points spread uniformly over the area of a mesh; faces of no area get none."""
    face_key, bary_key = jax.random.split(key)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normal = jnp.cross(b - a, c - a)
    area = jnp.sqrt(jnp.maximum(jnp.sum(normal**2, axis=-1), 0.0))
    cumulative = jnp.cumsum(area)
    draw = jax.random.uniform(face_key, (num,)) * cumulative[-1]
    face = jnp.searchsorted(cumulative, draw, side="right")
    face = jnp.minimum(face, faces.shape[0] - 1)
    r = jax.random.uniform(bary_key, (2, num, 1))
    root = jnp.sqrt(r[0])
    return (1 - root) * a[face] + root * (1 - r[1]) * b[face] + root * r[1] * c[face]


class SdfGrid(NamedTuple):
    """Signed distances on a cubic lattice: value [i, j, k] at origin + pitch (i, j, k)."""

    values: Float[np.ndarray, "g g g"]
    origin: Float[np.ndarray, " 3"]
    pitch: float


def grid_signed_distance(
    points: Float[Array, "p 3"],
    grid: Float[Array, "g g g"],
    origin: Float[Array, " 3"],
    pitch: Float[Array, ""],
) -> Float[Array, " p"]:
    """Trilinear lookup; outside the lattice plus the distance to it."""
    size = grid.shape[0]
    cell = (points - origin[None]) / pitch
    inside = jnp.clip(cell, 0.0, size - 1.0)
    low = jnp.minimum(jnp.floor(inside).astype(jnp.int32), size - 2)
    fraction = inside - low
    flat = grid.reshape(-1)
    value = jnp.zeros(points.shape[0])
    for corner in np.ndindex(2, 2, 2):
        index = low + jnp.array(corner)[None]
        near = jnp.where(jnp.array(corner, bool)[None], fraction, 1 - fraction)
        at = (index[:, 0] * size + index[:, 1]) * size + index[:, 2]
        value = value + jnp.prod(near, axis=-1) * flat[at]
    beyond = jnp.sum(((cell - inside) * pitch) ** 2, axis=-1)
    is_beyond = beyond > TINY
    return value + jnp.where(
        is_beyond, jnp.sqrt(jnp.where(is_beyond, beyond, 1.0)), 0.0
    )
