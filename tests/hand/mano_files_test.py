import io
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import scipy.sparse
import trimesh

from homae_jax.errors import UserError
from homae_jax.hand import mano_files, safe_pickle
from homae_jax.hand.mano_files import (
    WRIST_LOOP,
    close_wrist,
    load_mano,
    save_mano_npz,
    write_mano_pkl,
)
from homae_jax.synthetic.hand_model import mirror_hand
from tests.hand.built_hand import built_hand

OFFICIAL_GLOBALS = {
    "numpy.core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",
    "chumpy.ch Ch",
    "chumpy.reordering Select",
    "scipy.sparse.csc csc_matrix",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    write_mano_pkl(built_hand(), folder / "MANO_RIGHT.pkl")
    write_mano_pkl(mirror_hand(built_hand()), folder / "MANO_LEFT.pkl")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_mano(folder / "MANO_RIGHT.pkl")


def test_load_mano_returns_what_was_written(model):
    fields = built_hand()
    fields["J_regressor"] = fields["J_regressor"].toarray()
    for ours, official in mano_files.NPZ_KEYS.items():
        np.testing.assert_allclose(getattr(model, ours), fields[official], atol=1e-7)


def test_load_mano_is_float32_and_int32(model):
    for name, value in model._asdict().items():
        assert value.dtype == (np.int32 if "faces" in name else np.float32), name


def test_write_mano_pkl_names_the_official_classes_and_no_others(folder):
    content = (folder / "MANO_RIGHT.pkl").read_bytes()
    opcodes = list(pickletools.genops(content))
    assert opcodes[0][1] == 2
    names = {arg for op, arg, _ in opcodes if op.name == "GLOBAL"}
    assert names == OFFICIAL_GLOBALS


def test_write_mano_pkl_holds_the_official_keys(folder):
    loaded = safe_pickle.load_pickle(folder / "MANO_RIGHT.pkl")
    assert set(loaded) >= {
        "v_template", "f", "shapedirs", "posedirs", "J_regressor", "J", "weights",
        "kintree_table", "hands_components", "hands_mean", "hands_coeffs",
        "bs_style", "bs_type",
    }  # fmt: skip
    select = loaded["shapedirs"].state
    assert select["a"].state["x"].shape == (778, 3, 20)
    assert select["idxs"].shape == (23340,)
    assert select["preferred_shape"] == (778, 3, 10)
    assert loaded["f"].dtype == np.uint32
    assert loaded["kintree_table"][0, 0] == 2**32 - 1


def test_load_mano_adds_up_repeated_entries_of_the_regressor(tmp_path, model):
    """A compressed-column matrix may name one entry twice."""
    fields = built_hand()
    sparse = fields["J_regressor"]
    first = int(np.argmax(np.diff(sparse.indptr) > 0))
    indptr = sparse.indptr.copy()
    indptr[first + 1 :] += 1
    at = sparse.indptr[first]
    fields["J_regressor"] = type("csc_matrix", (), {})()
    fields["J_regressor"].shape = (16, 778)
    fields["J_regressor"].indptr = indptr
    fields["J_regressor"].indices = np.insert(sparse.indices, at, sparse.indices[at])
    data = np.insert(sparse.data, at, sparse.data[at] / 2)
    data[at + 1] /= 2
    fields["J_regressor"].data = data
    write_mano_pkl(fields, tmp_path / "twice.pkl")
    read = load_mano(tmp_path / "twice.pkl")
    np.testing.assert_allclose(read.joint_regressor, model.joint_regressor, atol=1e-7)


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix])
def test_load_mano_reads_what_users_saved_anew(tmp_path, folder, model, kind, protocol):
    """Without chumpy, by another protocol, the regressor dense or by rows."""
    path = folder / "MANO_RIGHT.pkl"
    fields = {
        name: mano_files._to_array(value, name, path)
        if isinstance(value, np.ndarray | safe_pickle.StandIn)
        else value
        for name, value in safe_pickle.load_pickle(path).items()
    }
    fields["J_regressor"] = kind(fields["J_regressor"])
    anew = tmp_path / "MANO_RIGHT.pkl"
    anew.write_bytes(pickle.dumps(fields, protocol=protocol))
    for ours, wanted in zip(load_mano(anew), model, strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_save_mano_npz_round_trips(tmp_path, model):
    save_mano_npz(model, tmp_path / "hand.npz")
    for a, b in zip(load_mano(tmp_path / "hand.npz"), model, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["hand.npz"]


def test_save_mano_npz_does_not_overwrite_unasked(tmp_path, model):
    path = tmp_path / "hand.npz"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"hand\.npz exists"):
        save_mano_npz(model, path)
    assert path.read_bytes() == b"mine"
    save_mano_npz(model, path, overwrite=True)
    load_mano(path)


@pytest.mark.parametrize("side", ["right", "left"])
def test_close_wrist_is_watertight_and_faces_outward(folder, side):
    hand = load_mano(folder / f"MANO_{side.upper()}.pkl", side=side)
    assert hand.closed_faces.shape == (1552, 3)
    np.testing.assert_array_equal(hand.closed_faces[:1538], hand.faces)
    mesh = trimesh.Trimesh(hand.template_vertices, hand.closed_faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    # The wrist points away from the fingers: +x on a right hand.
    caps = mesh.face_normals[1538:, 0] * (1 if side == "right" else -1)
    assert caps.min() > 0.9
    assert set(hand.closed_faces[1538:].ravel()) == set(WRIST_LOOP)


def test_close_wrist_raises_on_another_opening():
    faces = built_hand()["f"].astype(np.int32)
    swapped = np.array(faces)
    swapped[faces == WRIST_LOOP[3]], swapped[faces == 700] = 700, WRIST_LOOP[3]
    with pytest.raises(UserError, match="wrist"):
        close_wrist(swapped)


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_load_mano_raises_on_the_other_hand(tmp_path, folder, side, suffix):
    other = {"right": "left", "left": "right"}[side]
    path = folder / f"MANO_{other.upper()}.pkl"
    if suffix == "npz":
        hand, path = load_mano(path, side=other), tmp_path / "hand.npz"
        save_mano_npz(hand, path)
    with pytest.raises(UserError, match=f"holds a {other} hand.*MANO_{side.upper()}"):
        load_mano(path, side=side)


def test_load_mano_raises_on_a_truncated_file(tmp_path, folder):
    content = (folder / "MANO_RIGHT.pkl").read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.pkl: truncated"):
        load_mano(path)


def without(fields, name):
    del fields[name]


def changed(name, value):
    def change(fields):
        fields[name] = value

    return change


def put(name, index, value):
    def change(fields):
        fields[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: without(f, "posedirs"), 'no array "posedirs"'),
        (lambda f: without(f, "J_regressor"), 'no array "J_regressor"'),
        (changed("weights", np.zeros((778, 52))), r'"weights" has shape \(778, 52\)'),
        (changed("hands_mean", "mean"), 'no array "hands_mean"'),
        (put("v_template", (5, 1), np.nan), '"v_template" holds values'),
        (put("f", (5, 1), 778), '"f" names vertices'),
        (changed("f", np.zeros((1538, 3), np.uint32)), "wrist"),
    ],
)
def test_load_mano_raises_on_a_file_that_is_not_a_hand(tmp_path, change, message):
    fields = built_hand()
    change(fields)
    path = tmp_path / "hand.pkl"
    write_mano_pkl(fields, path)
    with pytest.raises(UserError, match=rf"hand\.pkl: .*{message}") as info:
        load_mano(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("indptr", np.array([0, 2**40] + [2**40] * 777)),
        ("indptr", np.arange(5)),
        ("indices", np.full(10, 99)),
        ("shape", (2**20, 2**20)),
    ],
)
def test_load_mano_raises_on_a_damaged_regressor(tmp_path, name, value):
    fields = built_hand()
    sparse = fields["J_regressor"]
    fake = type("csc_matrix", (), {})()
    for part in ("shape", "data", "indices", "indptr"):
        setattr(fake, part, value if part == name else getattr(sparse, part))
    fields["J_regressor"] = fake
    write_mano_pkl(fields, tmp_path / "hand.pkl")
    with pytest.raises(UserError, match=r'hand\.pkl: "J_regressor" is damaged'):
        load_mano(tmp_path / "hand.pkl")


def npz_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_load_mano_raises_on_a_damaged_npz(tmp_path, model):
    path = tmp_path / "hand.npz"
    save_mano_npz(model, path)
    content = path.read_bytes()
    for damaged in (content[:-40], content[:1000], b"", b"text", content[100:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"hand\.npz: "):
            load_mano(path)


def test_load_mano_raises_on_an_npz_of_something_else(tmp_path):
    path = tmp_path / "hand.npz"
    path.write_bytes(npz_bytes(points=np.zeros(3)))
    with pytest.raises(UserError, match=r"hand\.npz: not a hand, it lacks faces"):
        load_mano(path)


def test_load_mano_runs_no_pickle_in_an_npz(tmp_path, model):
    fields = model._asdict()
    fields["hand_mean"] = np.array([None] * 45, dtype=object)
    path = tmp_path / "hand.npz"
    path.write_bytes(npz_bytes(**fields))
    with pytest.raises(UserError, match=r"hand\.npz: damaged"):
        load_mano(path)


def test_load_mano_refuses_an_npz_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "hand.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("faces.npy", b"\0" * (mano_files.MAX_NPZ_BYTES + 1))
    with pytest.raises(UserError, match=r"hand\.npz: unpacks to"):
        load_mano(path)


def test_load_mano_names_a_missing_file(tmp_path):
    for name in ("none.npz", "none.pkl"):
        with pytest.raises(UserError, match=rf"{name}: .*[Nn]o such file"):
            load_mano(tmp_path / name)


@pytest.mark.parametrize(
    ("right", "left"),
    [("MANO_RIGHT.pkl", "MANO_LEFT.pkl"), ("mano_right.npz", "mano_left.npz")],
)
def test_left_beside_keeps_the_names_spelling(tmp_path, right, left):
    assert mano_files.left_beside(tmp_path / right) is None
    (tmp_path / left).touch()
    assert mano_files.left_beside(tmp_path / right) == tmp_path / left
    assert mano_files.left_beside(tmp_path / "hand.npz") is None
