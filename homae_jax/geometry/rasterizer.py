"""A z-buffer in numpy: which face each pixel sees, where on the face, how deep.

Camera frame: x right, y down, z forward, metres. Pixel centres have integer
coordinates: the centre of the top-left pixel is (0, 0). Triangles are two-sided.
"""

import numpy as np
from jaxtyping import Float, Int

NEAR = 1e-3  # metres; faces reaching nearer than this are dropped, not clipped
_MAX_CELLS = 400_000  # pixels tested at once: bounds the memory of the inner loop
_EDGE = 1e-9  # weights this far outside still count: no cracks between neighbours
_EMPTY = np.uint64(2**64 - 1)


def rasterize(
    vertices_cam: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    height: int,
    width: int,
) -> tuple[
    Int[np.ndarray, "{height} {width}"],
    Float[np.ndarray, "{height} {width} 3"],
    Float[np.ndarray, "{height} {width}"],
]:
    """Finds the nearest face behind every pixel centre.

    Returns:
      The face's row (-1: none), the perspective-correct barycentric coordinates of
      the point seen, and its depth z in metres (0: none).
    """
    points = np.asarray(vertices_cam, np.float64)
    safe_z = np.maximum(points[:, 2], NEAR)
    projected = (points / safe_z[:, None] @ np.asarray(intrinsics, np.float64).T)[:, :2]
    inverse_z = 1.0 / safe_z[faces]
    in_front = (points[faces, 2] > NEAR).all(axis=1)
    return _rasterize_projected(
        projected[faces], inverse_z, in_front, height=height, width=width
    )


def _rasterize_projected(corners_px, inverse_z, is_drawn, *, height, width):
    """`rasterize` of corners [f 3 2] that are projected already."""
    x, y = corners_px[..., 0], corners_px[..., 1]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0])
    area = area - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    x0 = np.clip(np.ceil(x.min(axis=1)), 0, width).astype(int)
    y0 = np.clip(np.ceil(y.min(axis=1)), 0, height).astype(int)
    x1 = np.clip(np.floor(x.max(axis=1)) + 1, 0, width).astype(int)
    y1 = np.clip(np.floor(y.max(axis=1)) + 1, 0, height).astype(int)
    is_drawn = is_drawn & (x1 > x0) & (y1 > y0) & (np.abs(area) > 1e-9)

    # Faces whose boxes round up to the same powers of two are tested together.
    log_w = np.ceil(np.log2(np.maximum(x1 - x0, 1))).astype(int)
    log_h = np.ceil(np.log2(np.maximum(y1 - y0, 1))).astype(int)
    keys = np.full(height * width, _EMPTY)
    for code in np.unique((log_w * 32 + log_h)[is_drawn]):
        group = np.nonzero(is_drawn & (log_w * 32 + log_h == code))[0]
        box_w, box_h = 1 << (code // 32), 1 << (code % 32)
        parts = max(1, len(group) * box_w * box_h // _MAX_CELLS)
        for rows in np.array_split(group, parts):
            px = x0[rows, None] + np.arange(box_w)
            py = y0[rows, None] + np.arange(box_h)
            dx = px[:, None, :] - x[rows, 0, None, None]
            dy = py[:, :, None] - y[rows, 0, None, None]
            second, third = _edge_weights(x, y, area, rows[:, None, None], dx, dy)
            inside = (second >= -_EDGE) & (third >= -_EDGE)
            inside &= second + third <= 1 + _EDGE
            inside &= (px < x1[rows, None])[:, None, :]
            inside &= (py < y1[rows, None])[:, :, None]
            k, j, i = np.nonzero(inside)
            weights = second[k, j, i], third[k, j, i]
            depth = _depth(inverse_z[rows[k]], *weights)
            np.minimum.at(keys, py[k, j] * width + px[k, i], _pack(depth, rows[k]))
    return _unpack(keys, x, y, area, inverse_z, height, width)


def _edge_weights(x, y, area, rows, dx, dy):
    """Screen-space weights of corners 1 and 2 at an offset from corner 0."""
    second = (y[rows, 2] - y[rows, 0]) * dx - (x[rows, 2] - x[rows, 0]) * dy
    third = (x[rows, 1] - x[rows, 0]) * dy - (y[rows, 1] - y[rows, 0]) * dx
    return second / area[rows], third / area[rows]


def _depth(inverse_z, second, third):
    slope = second * (inverse_z[:, 1] - inverse_z[:, 0])
    slope = slope + third * (inverse_z[:, 2] - inverse_z[:, 0])
    return 1.0 / (inverse_z[:, 0] + slope)


def _pack(depth, rows):
    """One integer that sorts by depth, then by face: positive floats sort as bits."""
    bits = depth.astype(np.float32).view(np.uint32).astype(np.uint64)
    return (bits << np.uint64(32)) | rows.astype(np.uint64)


def _unpack(keys, x, y, area, inverse_z, height, width):
    """Faces, perspective-correct weights and depths of the winning keys."""
    face_id = np.full(height * width, -1, np.int32)
    barycentric = np.zeros((height * width, 3), np.float32)
    depth = np.zeros(height * width, np.float32)
    hit = np.nonzero(keys != _EMPTY)[0]
    rows = (keys[hit] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    dx, dy = hit % width - x[rows, 0], hit // width - y[rows, 0]
    second, third = _edge_weights(x, y, area, rows, dx, dy)
    screen = np.stack([1 - second - third, second, third], axis=1)
    weights = screen * inverse_z[rows]
    total = weights.sum(axis=1)
    face_id[hit] = rows
    barycentric[hit] = weights / total[:, None]
    depth[hit] = 1.0 / total
    shape = (height, width)
    return face_id.reshape(shape), barycentric.reshape(*shape, 3), depth.reshape(shape)
