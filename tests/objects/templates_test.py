import numpy as np
import pytest
import trimesh

from homae_jax.errors import UserError
from homae_jax.objects import templates
from homae_jax.objects.simplify import is_closed

NAMES = ("003_cracker_box", "061_foam_brick")


def write_model(folder, mesh, centre=(0.0, 0.0, 0.0)):
    """As the YCB files: normals first, then vertices; v/vt/vn with texture seams."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["mtllib textured_simple.obj.mtl", "usemtl material_0"]
    lines += ["vn {:.6f} {:.6f} {:.6f}".format(*n) for n in mesh.vertex_normals]
    lines += ["v {:.6f} {:.6f} {:.6f}".format(*v) for v in mesh.vertices + centre]
    corners = mesh.faces.ravel() + 1
    lines += [f"vt {i / len(corners):.5f} 0.5" for i in range(len(corners))]
    for i, (a, b, c) in enumerate(mesh.faces + 1):
        t = 3 * i + 1
        lines.append(f"f {a}/{t}/{a} {b}/{t + 1}/{b} {c}/{t + 2}/{c}")
    (folder / "textured_simple.obj").write_text("\n".join(lines) + "\n")


@pytest.fixture
def models(tmp_path):
    box = trimesh.creation.box((0.06, 0.10, 0.20))
    write_model(tmp_path / "models" / NAMES[0], box, centre=(0.01, 0.0, -0.02))
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.04)
    write_model(tmp_path / "models" / NAMES[1], ball)
    return tmp_path / "models"


def load(models, names=NAMES):
    cache = models.parent / "cache"
    return templates.load_templates(models, names, cache_dir=cache, sdf_grid_size=16)


def test_load_templates_gives_the_declared_shapes(models):
    found, names = load(models)
    assert names == NAMES
    assert found.vertices.shape == (2, 1000, 3) and found.vertices.dtype == np.float32
    assert found.faces.shape[0] == 2 and found.faces.dtype == np.int32
    assert found.corners.shape == (2, 8, 3)
    assert found.sdf_grid.shape == (2, 16, 16, 16)
    assert found.sdf_nearest.shape == (2, 16, 16, 16)
    assert found.nearby_faces.shape == (*found.faces.shape[:2], templates.NUM_NEARBY)
    assert found.sdf_origin.shape == (2, 3) and found.sdf_pitch.shape == (2,)


def test_load_templates_stay_closed_in_spite_of_texture_seams(models):
    found, _ = load(models)
    assert is_closed(found.faces[0]) and is_closed(found.faces[1])
    volume = trimesh.Trimesh(found.vertices[0], found.faces[0], process=False).volume
    assert volume == pytest.approx(0.06 * 0.10 * 0.20, rel=1e-3)


def test_load_templates_order_corners_as_ho3d(models):
    corners = load(models)[0].corners[0]
    low, high = [-0.02, -0.05, -0.12], [0.04, 0.05, 0.08]
    np.testing.assert_allclose(corners[0], low, atol=1e-6)
    np.testing.assert_allclose(corners[1], [*low[:2], high[2]], atol=1e-6)
    np.testing.assert_allclose(corners[4], [high[0], *low[1:]], atol=1e-6)
    np.testing.assert_allclose(corners[7], high, atol=1e-6)


def test_load_templates_lattice_is_negative_inside(models):
    found, _ = load(models)
    pitch, origin = found.sdf_pitch[1], found.sdf_origin[1]
    index = np.round(-origin / pitch).astype(int)
    expected = np.linalg.norm(origin + pitch * index) - 0.04
    assert found.sdf_grid[1][tuple(index)] == pytest.approx(expected, abs=5e-4)
    assert found.sdf_grid[1][0, 0, 0] > 0.02


def test_load_templates_are_cached_until_the_file_changes(models, monkeypatch):
    first, _ = load(models)
    made = []
    make = templates._make_template
    monkeypatch.setattr(
        templates,
        "_make_template",
        lambda *a: made.append(a[0].parent.name) or make(*a),
    )
    again, _ = load(models)
    assert made == []
    np.testing.assert_array_equal(first.vertices, again.vertices)
    write_model(models / NAMES[1], trimesh.creation.icosphere(radius=0.03))
    changed, _ = load(models)
    assert made == [NAMES[1]]
    assert np.abs(changed.vertices[1]).max() < 0.031


def test_load_templates_make_a_damaged_cache_anew(models):
    first, _ = load(models)
    for file in (models.parent / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    again, _ = load(models)
    np.testing.assert_array_equal(first.sdf_grid, again.sdf_grid)


def test_load_templates_leave_nothing_half_written(models):
    load(models)
    files = [f.name for f in (models.parent / "cache").iterdir()]
    assert len(files) == 2 and all(name.endswith(".npz") for name in files)


def test_load_templates_do_without_a_cache_they_cannot_write(models):
    (models.parent / "cache").write_text("a file where the folder should be")
    assert load(models)[0].vertices.shape == (2, 1000, 3)


def test_load_templates_raise_on_a_missing_model(models):
    with pytest.raises(UserError, match="025_mug") as caught:
        load(models, ("025_mug",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "v 0 0 zero\n", "v 0 0 0\nv 1 0 0\n", "\0\1"])
def test_load_templates_raise_on_what_is_no_mesh(models, text):
    (models / NAMES[0] / "textured_simple.obj").write_text(text)
    with pytest.raises(UserError, match="obj: not a"):
        load(models)


def test_a_model_in_millimetres_is_refused(models):
    ball = trimesh.creation.icosphere(subdivisions=1, radius=40.0)
    write_model(models / NAMES[1], ball)
    with pytest.raises(UserError, match="is 80 wide, expected metres"):
        load(models)
    with pytest.raises(UserError, match="is 80 wide, expected metres"):
        templates.read_model(models / NAMES[1] / templates.MODEL_FILE)


def test_odd_boxes_are_those_far_from_the_known_model():
    """The mug stands beside its centre in YCB-Video's frame: (8.5, 0.7, 1.6) mm."""
    half = np.array([0.1170, 0.0931, 0.0814]) / 2
    signs = np.array(list(np.ndindex(2, 2, 2))) * 2 - 1
    mug = np.array([0.008468, 0.000700, 0.001615]) + signs * half
    moved = mug + np.array([0.0, 0.0, 0.011])
    names = ("025_mug", "025_mug")
    assert templates.odd_boxes(names[:1], mug[None]) == {}
    found = templates.odd_boxes(names, np.stack([mug, moved]))
    assert found == {"025_mug": pytest.approx(0.011)}
