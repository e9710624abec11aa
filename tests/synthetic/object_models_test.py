import cv2
import numpy as np
import pytest
import trimesh

from homae_jax.objects.simplify import is_closed
from homae_jax.objects.ycb import BOX_CENTRES, EXTENTS, YCB_NAMES
from homae_jax.synthetic import object_models
from homae_jax.synthetic.meshes import load_model

MUG, CAN, BOX = "025_mug", "005_tomato_soup_can", "003_cracker_box"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    object_models.write_object_models(out, (MUG, CAN, BOX))
    return out


def parse(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    faces = [row[1:] for row in rows if row[0] == "f"]
    numbers = {
        kind: np.array([row[1:] for row in rows if row[0] == kind], float)
        for kind in ("v", "vt", "vn")
    }
    corners = np.array([[c.split("/") for c in face] for face in faces]).astype(int) - 1
    order = list(dict.fromkeys(row[0] for row in rows))
    return numbers, corners, order


@pytest.mark.parametrize("name", YCB_NAMES.values())
def test_build_object_is_watertight_and_fills_its_box(name):
    mesh = object_models.build_object(name)
    assert is_closed(np.asarray(mesh.faces)) and mesh.volume > 0
    assert 2300 <= len(mesh.vertices) <= 2700
    np.testing.assert_allclose(mesh.extents, EXTENTS[name], atol=1e-5)
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), BOX_CENTRES[name], atol=1e-5)


def test_build_object_gives_a_mug_a_handle_and_a_hollow():
    mug = object_models.build_object(MUG)
    assert mug.euler_number == 0  # one handle
    assert mug.volume < 0.3 * np.prod(mug.extents)


def test_write_object_models_follows_the_ycb_layout(models):
    numbers, corners, order = parse(models / CAN / "textured_simple.obj")
    assert order.index("vn") < order.index("v")
    assert len(numbers["vn"]) == len(numbers["v"]) > 2000
    assert corners.shape[1:] == (3, 3)
    np.testing.assert_array_equal(corners[..., 0], corners[..., 2])
    assert corners[..., 1].max() == len(numbers["vt"]) - 1
    assert numbers["vt"].min() >= 0 and numbers["vt"].max() <= 1
    np.testing.assert_allclose(np.linalg.norm(numbers["vn"], axis=1), 1, atol=1e-4)


def test_write_object_models_points_are_the_vertices(models):
    points = np.loadtxt(models / BOX / "points.xyz")
    numbers, _, _ = parse(models / BOX / "textured_simple.obj")
    np.testing.assert_allclose(points, numbers["v"], atol=1e-6)
    np.testing.assert_allclose(np.ptp(points, axis=0), EXTENTS[BOX], atol=2e-6)


@pytest.mark.parametrize("name", [MUG, CAN, BOX])
def test_write_object_models_simplifies_to_1000_vertices(models, name):
    path = models / name / "textured_simple_2000.obj"
    mesh = trimesh.load(path, process=False, force="mesh")
    assert len(mesh.vertices) == 1000 and is_closed(np.asarray(mesh.faces))
    np.testing.assert_allclose(mesh.extents, EXTENTS[name], atol=1e-3)


def test_write_object_models_textures_are_found_and_not_plain(models):
    model = load_model(models / CAN)
    assert model.material.texture.shape == (512, 512, 3)
    picture = cv2.imread(str(models / CAN / "texture_map.png"))
    assert picture.std() > 20


def test_write_object_models_is_the_same_every_time(models, tmp_path):
    object_models.write_object_models(tmp_path, (MUG,))
    for file in (models / MUG).iterdir():
        assert file.read_bytes() == (tmp_path / MUG / file.name).read_bytes(), file.name


def test_labels_go_round_a_can_and_print_is_not_mirrored():
    can = object_models.build_object(CAN)
    uv = object_models._corner_uvs(can, CAN)
    side = np.abs(can.face_normals[:, 2]) < 0.1
    assert np.ptp(uv[side, :, 0]) == pytest.approx(0.49, abs=0.02)
    # Seen from outside, u grows to the right and v upwards on every printed side.
    for name in (CAN, BOX):
        mesh = object_models.build_object(name)
        a, b, c = (object_models._corner_uvs(mesh, name)[:, i] for i in range(3))
        turn = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        assert (turn > -1e-9).mean() > 0.97
