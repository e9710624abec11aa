"""From a picture to a result: frames, mirrors, what is missing, exports."""

import ast
import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from jax import export

from homae_jax import (
    assembly,
    bundle,
    exported,
    predictor,
    program,
    runtime,
    weights,
)
from homae_jax.errors import UserError
from homae_jax.geometry import camera
from homae_jax.models import products
from homae_jax.predictor import (
    MIRROR,
    ObjectShape,
    Predictor,
    _checked_box,
    _checked_image,
    _checked_place,
    mirrored_pose,
)
from homae_jax.schema import Targets
from tests import toy
from tests.evaluate_test import OBJECT_NAMES, toy_config

HAS_PROGRAMS = importlib.util.find_spec("flatbuffers") is not None
K = np.array([[300.0, 0.0, 85.0], [0.0, 290.0, 55.0], [0.0, 0.0, 1.0]])
IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
GIVEN = {
    "intrinsics": K,
    "hand_box_px": np.array([40.0, 30.0, 90.0, 80.0]),
    "object_box_px": np.array([60.0, 40.0, 120.0, 100.0]),
    "wrist_cam": np.array([-0.02, -0.01, 0.5]),
}


def write_export(folder, *, auxiliary, programs=False):
    """A toy network as an export that holds hand and objects."""
    config = toy_config()
    config.data.root, config.model.auxiliary = "", auxiliary
    config.model.encoder.attention = "cudnn"  # as a run from a GPU
    model = assembly.build_model(config)
    points = jnp.zeros((2, 12, 3)), jnp.zeros((2, 8, 3))
    targets = Targets(*[None] * len(Targets._fields))._replace(
        hand_points_norm=points[0],
        object_points_norm=points[1],
        hand_sdf_points_norm=points[0],
        object_sdf_points_norm=points[1],
    )
    params = toy.toy_parameters(
        model,
        toy.toy_batch(),
        toy.toy_mano(),
        targets=targets,
        own_points=False,
        mask_image=True,
        reconstruct=True,
    )["params"]
    extras = {
        bundle.HAND: bundle.pack_hand(toy.toy_mano()),
        bundle.OBJECTS: bundle.pack_objects(toy.toy_templates(), OBJECT_NAMES),
    }
    if programs:
        with pytest.MonkeyPatch.context() as patch:
            # float32 all the same: programs are meant for any device.
            patch.setattr(runtime, "has_bfloat16", lambda: True)
            auto = config.copy_and_resolve_references()
            auto.model.dtype = "auto"
            extras |= program.build_programs(auto, params, toy.toy_mano())
    text = assembly.config_to_json(config)
    return weights.write_export(folder, params, config_json=text, step=3, extras=extras)


@pytest.fixture(scope="module")
def load_toy_hand():
    """The toy hand is no hand: its wrist cannot be closed, so it is handed over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("homae_jax.predictor.load_mano", lambda path: toy.toy_mano())
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_export(
        tmp_path_factory.mktemp("export") / "e", auxiliary=True, programs=HAS_PROGRAMS
    )


@pytest.fixture(scope="module")
def predict(folder, load_toy_hand):
    return Predictor(folder)


@pytest.fixture(scope="module")
def result(predict):
    return predict(IMAGE, **GIVEN)


def test_predictor_answers_in_the_frame_of_the_picture(result):
    np.testing.assert_allclose(result.joints_cam[0], GIVEN["wrist_cam"], atol=1e-5)
    assert result.is_metric and result.camera_source == "given"
    assert result.predicted_inputs == () and not result.is_left
    assert result.vertices_cam.shape == (778, 3)
    assert result.object_vertices_cam.shape == (1000, 3)
    np.testing.assert_allclose(result.cam_T_obj[3], [0, 0, 0, 1])
    np.testing.assert_allclose(np.linalg.det(result.cam_T_obj[:3, :3]), 1, atol=1e-5)
    for part in ("hand", "object"):
        box = getattr(result, f"{part}_box_px")
        np.testing.assert_allclose(box, GIVEN[f"{part}_box_px"], atol=1e-3)


def test_a_run_trained_with_cudnn_answers_where_there_is_none(predict, result):
    assert predict.model.encoder["attention"] == "cudnn"
    assert jax.default_backend() == "cpu"
    assert np.isfinite(result.joints_cam).all()


def test_prediction_projects_alike_in_picture_and_crop(result):
    in_picture = camera.project(result.joints_cam, result.picture_intrinsics)
    moved = np.c_[in_picture, np.ones(21)] @ result.crop_affine.T
    in_crop = camera.project(result.joints_cam, result.crop_intrinsics)
    np.testing.assert_allclose(in_crop, moved[:, :2], atol=1e-2)


def test_predictor_mirrors_a_left_hand(predict, result):
    """The mirrored picture as a left hand gives the mirrored answer."""
    last = IMAGE.shape[1] - 1.0
    flip = np.array([[-1.0, 0, last], [0, 1, 0], [0, 0, 1]])

    def mirrored(box):
        return np.array([last - box[2], box[1], last - box[0], box[3]])

    left = predict(
        np.ascontiguousarray(IMAGE[:, ::-1]),
        intrinsics=flip @ K @ MIRROR,
        hand_box_px=mirrored(GIVEN["hand_box_px"]),
        object_box_px=mirrored(GIVEN["object_box_px"]),
        wrist_cam=MIRROR @ GIVEN["wrist_cam"],
        is_left=True,
    )
    for name in ("joints_cam", "vertices_cam", "object_points_cam"):
        np.testing.assert_allclose(
            getattr(left, name), getattr(result, name) @ MIRROR, atol=1e-5
        )
    np.testing.assert_allclose(
        left.hand_pose_aa[:, 0], result.hand_pose_aa[:, 0], atol=1e-4
    )
    np.testing.assert_allclose(
        left.hand_pose_aa[:, 1:], -result.hand_pose_aa[:, 1:], atol=1e-4
    )
    in_crop = camera.project(left.joints_cam, left.crop_intrinsics)
    moved = camera.project(left.joints_cam, left.picture_intrinsics)
    moved = np.c_[moved, np.ones(21)] @ left.crop_affine.T
    np.testing.assert_allclose(in_crop, moved[:, :2], atol=1e-2)
    np.testing.assert_array_equal(left.crop, result.crop[:, ::-1])
    inside, mirrored_inside = predict.inspect(result), predict.inspect(left)
    for name in ("hand", "object"):
        turned, straight = (
            np.abs(mirrored_inside.sdf[name] - values).mean()
            for values in (inside.sdf[name][:, ::-1], inside.sdf[name])
        )
        assert turned < 0.3 * straight
    np.testing.assert_array_equal(mirrored_inside.masked, inside.masked[:, ::-1])


def testmirrored_pose_shows_the_mirrored_object():
    """A box without symmetric corners but with a plane of symmetry, x."""
    rng = np.random.default_rng(1)
    half = rng.normal(size=(40, 3))
    vertices = np.concatenate([half, half * [-1, 1, 1]]) + 0.1
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose[:3, :3] *= np.linalg.det(pose[:3, :3])
    pose[:3, 3] = rng.normal(size=3)
    shape = ObjectShape("toy", vertices, np.zeros((0, 3), int))
    made = mirrored_pose(pose, shape)
    np.testing.assert_allclose(np.linalg.det(made[:3, :3]), 1.0, atol=1e-9)
    seen = vertices @ made[:3, :3].T + made[:3, 3]
    wanted = (vertices @ pose[:3, :3].T + pose[:3, 3]) * [-1, 1, 1]
    np.testing.assert_allclose(
        np.sort(seen, axis=0), np.sort(wanted, axis=0), atol=1e-9
    )


def test_predictor_finds_what_is_not_given(predict):
    found = predict(IMAGE)
    assert found.predicted_inputs == ("hand_box", "object_box", "wrist")
    assert not found.is_metric and found.camera_source == "assumed"
    assert set(found.object_scores) == set(OBJECT_NAMES)
    np.testing.assert_allclose(sum(found.object_scores.values()), 1.0, rtol=1e-6)
    assert np.isfinite(found.joints_cam).all() and found.wrist_cam[2] > 0


def test_an_object_of_little_belief_is_the_hull_of_its_points(predict, monkeypatch):
    monkeypatch.setattr("homae_jax.predictor.SURE_FROM", 1.1)
    for is_left in (False, True):
        result = predict(IMAGE, is_left=is_left)
        assert result.object_shape.name == "unnamed" and result.object_scores
        mesh = trimesh.Trimesh(
            result.object_vertices_cam, result.object_shape.faces, process=False
        )
        assert mesh.is_watertight and mesh.volume > 0
        normals, at = mesh.face_normals, mesh.triangles_center
        beyond = result.object_points_cam @ normals.T - (at * normals).sum(axis=1)
        assert beyond.max() < 1e-6


def test_without_known_objects_the_hull_is_all_there_is(predict, monkeypatch):
    monkeypatch.setattr(predict, "object_names", ())
    monkeypatch.setattr(predict, "_trained_names", ())
    result = predict(IMAGE)
    assert result.object_shape.name == "unnamed" and result.object_scores == {}
    with pytest.raises(UserError, match=r"no object is known here; give a mesh"):
        predict(IMAGE, object_shape="mustard")


def test_predictor_without_auxiliary_heads_names_what_is_missing(
    tmp_path, load_toy_hand
):
    bare = Predictor(write_export(tmp_path / "e", auxiliary=False))
    with pytest.raises(UserError, match=r"give --object_box, --root, or train with"):
        bare(IMAGE, hand_box_px=GIVEN["hand_box_px"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hand_box_px": np.array([10.0, 10.0, 5.0, 20.0])}, "hand_box"),
        ({"hand_box_px": np.array([10.0, 10.0, 12.0, 12.0])}, "smaller than 4 px"),
        (
            {"object_box_px": np.array([300.0, 9.0, 350.0, 20.0])},
            "object_box=300,9,350,20: lies outside the picture of 160 x 120 px",
        ),
        ({"wrist_cam": np.array([0.0, 0.0, -0.5])}, "root=.*in front of the camera"),
        ({"wrist_cam": np.array([10.0, 20.0, 600.0])}, "z is 600 m; give metres"),
        ({"intrinsics": np.diag([1e9, 1e9, 1.0])}, "focal length of 1e"),
        ({"intrinsics": np.zeros((3, 3))}, "K: give"),
        ({"intrinsics": K + 400 * np.eye(3, k=1)}, "K: give fx,fy"),
        (
            {"hand_box_px": np.array([40.0, 30.0, 90.0, 1e12])},
            r"hand_box=40,30,90,1e\+12: reaches far outside the picture of 160 x 120",
        ),
        (
            {"wrist_cam": np.array([0.9, 0.0, 0.3])},
            "root=0.9,0,0.3: projects to 985,55, far outside the picture",
        ),
        (
            {"object_center_cam": np.array([0.0, -9.0, 1.0])},
            "object_center=0,-9,1: projects to 85,-2555, far outside",
        ),
        ({"object_shape": "teapot"}, "no known object"),
        ({"intrinsics": None, "fov_deg": 200.0}, "fov=200"),
        ({"intrinsics": None, "focal_35mm": -5.0}, "focal_35mm=-5: give millimetres"),
    ],
)
def test_predictor_refuses_what_makes_no_sense(predict, changes, message):
    with pytest.raises(UserError, match=message):
        predict(IMAGE, **(GIVEN | changes))


def test_objects_are_named_as_in_training_whatever_models_are_given(
    folder, predict, monkeypatch
):
    """Rows of the head are those of training; other meshes moved the names."""
    few = jax.tree.map(lambda leaf: leaf[1:], predict.templates), OBJECT_NAMES[1:]
    find = predictor._find_objects
    monkeypatch.setattr(
        predictor, "_find_objects", lambda run, given: few if given else find(run, None)
    )
    other = Predictor(folder, models="of fewer objects")
    assert len(other.object_names) == len(predict.object_names) - 1
    scores = predict(IMAGE, **GIVEN | {"wrist_cam": None}).object_scores
    assert (
        scores and other(IMAGE, **GIVEN | {"wrist_cam": None}).object_scores == scores
    )
    opened = assembly.open_run(folder)._replace(object_names=OBJECT_NAMES)
    monkeypatch.setattr(assembly, "open_run", lambda *_: opened)
    monkeypatch.setattr(predictor, "_find_objects", lambda run, given: few)
    changed = Predictor(folder)  # a run whose folder of models has lost one
    assert changed(IMAGE, **GIVEN | {"wrist_cam": None}).object_scores == scores
    gone = OBJECT_NAMES[0]
    assert other.find_believed(gone) is None and predict.find_believed(gone)


def test_what_are_no_numbers_are_no_box_and_no_place():
    with pytest.raises(UserError, match="hand_box=nan: give x0,y0"):
        _checked_box("hand_box", "x", 160, 120)
    with pytest.raises(UserError, match="root=nan: give x,y,z"):
        _checked_place("root", {"x": 1})


def test_an_image_must_be_large_enough(predict):
    with pytest.raises(UserError, match="smaller than 16 px"):
        predict(IMAGE[:0, :0])


@pytest.mark.parametrize(
    "image", [np.zeros((5, 6, 3)), np.zeros((5, 6), np.uint8), "photo.jpg"]
)
def test_predictor_says_what_image_it_wants(image):
    with pytest.raises(UserError, match=r"8-bit RGB \[h, w, 3\]"):
        _checked_image(image)


def test_predictor_answers_a_narrow_strip(predict):
    strip = np.full((20, 3000, 3), 99, np.uint8)
    assert np.isfinite(predict(strip).joints_cam).all()


def test_inspect_reconstructs_and_slices(predict, result):
    seen = predict.inspect(result)
    assert seen.reconstruction.shape == result.crop.shape
    assert set(seen.sdf) == {"hand", "object"}
    assert all(np.isfinite(values).all() for values in seen.sdf.values())


@pytest.mark.skipif(not HAS_PROGRAMS, reason="no flatbuffers here")
def test_exported_model_answers_as_the_network_does(folder, predict, result):
    model = exported.ExportedModel(folder)
    batch = result.network_input
    inputs = [
        np.repeat(np.asarray(getattr(batch, name)), 3, axis=0)
        for name in (
            "image", "intrinsics", "hand_box_px", "object_box_px", "wrist",
            "object_center",
        )
    ]  # fmt: skip
    answer = model(*inputs)
    assert answer["joints"].shape == (3, 21, 3)
    np.testing.assert_allclose(answer["joints"][2], result.joints_cam, atol=1e-4)
    np.testing.assert_allclose(
        answer["object_trans"][0], result.cam_T_obj[:3, 3], atol=1e-4
    )
    found = model.locate(inputs[0], inputs[1])
    assert found["hand_box_px"].shape == (3, 4)
    assert json.loads((folder / "program.json").read_text())["platforms"] == [
        "cpu",
        "cuda",
    ]


@pytest.mark.skipif(not HAS_PROGRAMS, reason="no flatbuffers here")
def test_exported_model_refuses_what_is_not_its_own(folder, tmp_path):
    with pytest.raises(ValueError, match="wants uint8 RGB"):
        exported.ExportedModel(folder).locate(np.zeros((1, 8, 8, 3)), np.eye(3)[None])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for content, message in ((b"PK", "differs from its hash"), (None, "missing")):
        (copy / bundle.HAND).unlink()
        if content:
            (copy / bundle.HAND).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            exported.ExportedModel(copy)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: is no hand model"):
        exported.ExportedModel(copy, hand=tmp_path / "other.npz")
    for text in ("{}", "[]", "{"):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(ValueError):
            exported.ExportedModel(copy)


@pytest.mark.skipif(not HAS_PROGRAMS, reason="no flatbuffers here")
def test_programs_keep_the_accelerators_form_of_products():
    def product(x: jax.Array) -> jax.Array:
        return products.dense(3, jnp.bfloat16).apply({"params": params}, x)

    x = jnp.ones((2, 4))
    params = products.dense(3, jnp.bfloat16).init(jax.random.key(0), x)["params"]
    assert product(x).dtype == jnp.float32  # here, on a CPU
    (out,) = export.deserialize(program._serialised(product, x)).out_avals
    assert out.dtype == jnp.bfloat16


def test_exported_needs_none_of_the_projects_code():
    source = Path(exported.__file__).read_text()
    for node in ast.walk(ast.parse(source)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [
            a.name for a in getattr(node, "names", []) if isinstance(node, ast.Import)
        ]
        assert not any(name.startswith("homae_jax") for name in modules)


def test_importing_the_package_starts_no_jax():
    """homae_jax.Predictor is loaded when it is asked for."""
    import subprocess
    import sys

    code = "import sys, homae_jax; assert 'jax' not in sys.modules; homae_jax.Predictor"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
