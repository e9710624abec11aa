"""HOISDF's scores of hands and objects, to be timed; imported by `_peer_program.py`.

Written anew from its steps for DexYCB (amathislab/HOISDF @73b575c: common/metrics.py,
main/test.py, common/eval_util.py): hands one after the other in numpy, objects in torch
with all pairs of points written out. Nearest points are scipy's, in place of Open3D's.
In its favour they are counted in numpy, not one by one, and curves over a whole data
set are left out.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

F_THRESHOLDS = (0.005, 0.015)  # m


def score_hands(
    pred_joints: np.ndarray,
    joints: np.ndarray,
    pred_vertices: np.ndarray,
    vertices: np.ndarray,
) -> dict[str, np.ndarray]:
    """Scores of each hand; arrays "b 21 3" and "b 778 3", metres, wrists at 0.

    Returns:
      mje, pa_mje; v_pe, pa_v_pe; f_5, f_15, pa_f_5, pa_f_15.
    """
    batch = zip(pred_joints, joints, pred_vertices, vertices, strict=True)
    rows = [dict(_score_hand(*arrays)) for arrays in batch]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def _score_hand(
    pred_joints: np.ndarray,
    joints: np.ndarray,
    pred_vertices: np.ndarray,
    vertices: np.ndarray,
) -> Iterator[tuple[str, float]]:
    for name, pred, true in (
        ("mje", pred_joints, joints),
        ("v_pe", pred_vertices, vertices),
    ):
        yield name, _mean_distance(pred, true)
        yield f"pa_{name}", _mean_distance(align(pred, true), true)
    aligned = align(pred_vertices, vertices)
    for threshold in F_THRESHOLDS:
        name = f"f_{1e3 * threshold:.0f}"
        yield name, _f_score(pred_vertices, vertices, threshold)
        yield f"pa_{name}", _f_score(aligned, vertices, threshold)


def align(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points under the similarity that brings them nearest to the target."""
    middle, target_middle = points.mean(0), target.mean(0)
    left, stretch, right = np.linalg.svd((points - middle).T @ (target - target_middle))
    if np.linalg.det(right.T @ left.T) < 0:
        stretch[-1], right[-1] = -stretch[-1], -right[-1]
    scale = stretch.sum() / ((points - middle) ** 2).sum()
    return scale * (points - middle) @ (right.T @ left.T).T + target_middle


def _mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).sum(1)).mean())


def _f_score(pred: np.ndarray, true: np.ndarray, threshold: float) -> float:
    """As the original, both searches anew for every threshold."""
    precision = (KDTree(true).query(pred)[0] < threshold).mean()
    recall = (KDTree(pred).query(true)[0] < threshold).mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total > 0 else 0.0


def score_objects(
    pred_rotmat: Tensor,
    pred_trans: Tensor,
    rotmat: Tensor,
    trans: Tensor,
    model: Tensor,
) -> dict[str, Tensor]:
    """Scores of each object from its poses and its points, "b p 3", in metres.

    Returns:
      add_s, ome (HOISDF's MME), mce, oce.
    """
    pred = model @ pred_rotmat.transpose(1, 2) + pred_trans[:, None]
    true = model @ rotmat.transpose(1, 2) + trans[:, None]
    num = pred.shape[1]
    pairs = true[:, None].repeat(1, num, 1, 1) - pred[:, :, None].repeat(1, 1, num, 1)
    ends = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    boxes = []
    for points in (pred, true):
        corners = torch.stack([points.amin(1), points.amax(1)], 1)
        boxes.append(torch.stack([corners[:, ends[:, i], i] for i in range(3)], -1))
    return {
        "add_s": torch.norm(pairs, dim=-1).amin(2).mean(1),
        "ome": torch.norm(true - pred, dim=-1).mean(-1),
        "mce": torch.norm(boxes[0] - boxes[1], dim=-1).mean(-1),
        "oce": torch.norm(pred_trans - trans, dim=-1),
    }
