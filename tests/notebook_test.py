"""The notebook: whole, without outputs, and it runs top to bottom on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOK = json.loads((FOLDER / "predict.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def test_notebook_stores_no_outputs():
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000


def test_notebook_runs_top_to_bottom(tmp_path):
    """As Jupyter would: every cell in its folder, one after the other."""
    checks = [
        "assert result.is_metric and not guessed.is_metric and moved_px < 15",
        "assert error_mm(better.joints_cam)['absolute'] < 60",
        "print('top to bottom')",
    ]
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join([*CODE, *checks]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=FOLDER,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "top to bottom" in done.stdout and "vertices_cam   (778, 3)" in done.stdout
