"""Procrustes alignments of one set [n 3], independent of ours, in float64."""

import numpy as np
import scipy.linalg


def official(source, target):
    """HO-3D's alignment of one set, in float64."""
    target_mean, source_mean = target.mean(0), source.mean(0)
    target, source = target - target_mean, source - source_mean
    target_size = np.linalg.norm(target) + 1e-8
    source_size = np.linalg.norm(source) + 1e-8
    rotmat, scale = scipy.linalg.orthogonal_procrustes(
        target / target_size, source / source_size
    )
    return source / source_size @ rotmat.T * scale * target_size + target_mean


def umeyama(source, target):
    """Without reflections (Umeyama 1991), by the definition."""
    target_mean, source_mean = target.mean(0), source.mean(0)
    x, y = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(y.T @ x / len(x))
    d = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(s) @ d) / (x**2).sum(1).mean()
    return scale * x @ (u @ d @ vt).T + target_mean
