"""Who may import whom: the rooms of the README's map, kept by reading the imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "homae_jax"
ENTRY_POINTS = {
    "train",
    "evaluate",
    "synthesize",
    "convert",
    "export",
    "assembly",
    "scoring",
    "score_ho3d",
    "submission",
    "weights",
    "command_line",
    "config_checks",
    "config_flags",
    "runtime",
    "predict",
    "predictor",
    "prediction_files",
    "bundle",
    "exported",
    "model_card",
    "program",
    "report",
    "run_report",
    "doctor",
    "diagnosis",
    "benchmark",
    "benchmarks",
}
EVERYWHERE = {"errors", "lifeline", "progress", "whole_file"}
ALLOWED = {
    "geometry": set(),
    "schema": set(),
    "hand": {"geometry"},
    "objects": {"geometry", "schema"},
    "models": {"geometry", "hand", "schema"},
    "targets": {"geometry", "hand", "objects", "schema"},
    "losses": {"geometry", "hand", "schema"},
    "metrics": {"geometry", "hand", "schema"},
    "data": {"schema", "geometry", "hand", "objects"},
    "synthetic": {"geometry", "hand", "objects", "schema"},
    "training": {"schema", "losses", "targets"},
    "evaluation": {"schema", "metrics", "geometry", "models", "hand", "objects"},
    "viz": {"geometry", "hand", "schema"},
}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path}: relative import")
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "homae_jax":
                names = [f"homae_jax.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {n.split(".")[1] for n in names if n.startswith("homae_jax.")}
    return rooms


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    "path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES]
)
def test_imports_point_the_allowed_way(path):
    room = room_of(path)
    if room in ENTRY_POINTS or room in {"__init__", *EVERYWHERE}:
        return
    assert room in ALLOWED, f"{room}: say in ALLOWED what it may import"
    forbidden = imported_rooms(path) - ALLOWED[room] - EVERYWHERE - {room}
    assert not forbidden, f"{path.name} imports {sorted(forbidden)}"


@pytest.mark.parametrize(
    "path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES]
)
def test_nobody_below_the_entry_points_sees_the_config(path):
    if room_of(path) in ENTRY_POINTS:
        return
    assert "ml_collections" not in path.read_text()


def imported_packages(text: str) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize(
    "name",
    [f"data/{name}.py" for name in ("crops", "ho3d", "dexycb", "pictures", "source")],
)
def test_readers_and_crops_call_no_jax_themselves(name):
    """Numpy in, numpy out: loader processes must not touch a device."""
    assert "jax" not in imported_packages((PACKAGE / name).read_text())


@pytest.mark.parametrize(
    "line", ["import jax", "import jax.numpy as jnp", "from jax import numpy as jnp"]
)
def test_every_way_to_import_jax_is_seen(line):
    assert "jax" in imported_packages(f"def late():\n    {line}")
