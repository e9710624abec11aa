"""Curves: which panels there are, where lines run, which files are refused."""

import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.viz import curves


def test_read_metrics_leaves_out_a_half_written_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert curves.read_metrics(path) == [{"step": 1, "loss": 2.0}]
    path.write_text('{"step": 1\n{"step": 2, "loss": 2.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:1"):
        curves.read_metrics(path)


def test_training_curves_draws_a_panel_for_each_title_with_data():
    records = [{"step": i, "loss": 100.0 / (i + 1), "lr": 1e-4} for i in range(50)]
    panels = {"loss": ["loss"], "rate": ["lr"], "nothing": ["absent"]}
    sheet = curves.training_curves(records, panels, width=200, height=120)
    assert sheet.shape == (120, 400, 3)
    line = np.array(curves.LINE_COLOURS[0])
    for panel in (sheet[:, :200], sheet[:, 200:]):
        assert (np.abs(panel.astype(int) - line).sum(-1) < 40).sum() > 20
    with pytest.raises(UserError):
        curves.training_curves(records, {"nothing": ["absent"]})


def test_plot_line_falls_where_values_fall():
    x = np.arange(100.0)
    image = curves.plot([curves.Curve("y", x, 1.0 - x / 100)], title="t")
    line = np.abs(image.astype(int) - np.array(curves.LINE_COLOURS[0])).sum(-1) < 40
    line[:, -60:] = False  # the legend
    left, right = (np.nonzero(line[:, c])[0].mean() for c in (80, 380))
    assert right - left > 50


def test_plot_from_zero_shows_a_level_as_such():
    """Else the axis holds the values, and any wobble fills it."""
    x = np.arange(100.0)
    wobble = curves.Curve("y", x, 1000.0 + np.sin(x))
    heights = {}
    for from_zero in (False, True):
        image = curves.plot([wobble], title="t", from_zero=from_zero)
        line = np.abs(image.astype(int) - np.array(curves.LINE_COLOURS[0])).sum(-1) < 40
        rows = np.nonzero(line[:, :-60])[0]
        heights[from_zero] = rows.max() - rows.min()
    assert heights[True] < 6 < 50 < heights[False]
