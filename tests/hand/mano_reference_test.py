"""Hands as Python 2, chumpy and smplx made them: read, and moved as smplx moves them.

tests/parity/make_mano_reference.py made the reference with smplx from the same files.
"""

import pickletools
import sys
from pathlib import Path

import numpy as np
import pytest

from homae_jax import convert
from homae_jax.hand import mano_files
from tests.hand.data import toy_hand
from tests.hand.toy_files import SIDES, unpack_hand
from tests.parity.mano_comparison import compare, run_ours

REFERENCE = Path(__file__).parents[1] / "parity" / "data" / "mano_reference.npz"
MANO_GLOBALS = {
    "__builtin__ set",
    "chumpy.ch Ch",
    "chumpy.reordering Select",
    "numpy dtype",
    "numpy ndarray",
    "numpy.core.multiarray _reconstruct",
    "scipy.sparse.csc csc_matrix",
}


NUM_VARIED = 16  # principal components along which the toy hand's poses vary


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    return {side: unpack_hand(side, folder) for side in SIDES}


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("side", SIDES)
def test_toy_files_name_what_the_official_file_names(paths, side):
    opcodes = pickletools.genops(paths[side].read_bytes())
    assert {arg for op, arg, _ in opcodes if op.name == "GLOBAL"} == MANO_GLOBALS


@pytest.mark.parametrize("side", SIDES)
def test_load_mano_reads_what_chumpy_wrote(paths, side):
    model = mano_files.load_mano(paths[side], side=side)
    assert "chumpy" not in sys.modules
    wanted = toy_hand.toy_hand(side)
    wanted["shapedirs"] = wanted["shapedirs"][..., :10]
    for ours, official in mano_files.NPZ_KEYS.items():
        # One step of rounding: the hand is built anew on this machine.
        step = toy_hand.SHARE_STEP
        if official in ("v_template", "shapedirs", "posedirs"):
            step = toy_hand.POSE_STEP
        found, made = np.asarray(getattr(model, ours)), wanted[official]
        if official == "hands_components":  # the rest is LAPACK's choice
            assert np.abs(found @ found.T - np.eye(45)).max() < 0.01
            found, made = found[:NUM_VARIED], made[:NUM_VARIED]
        off = np.abs(found - made).max()
        print(f"\n{side} {official}: largest difference {off:.1e}")
        assert off <= step * 1.01, official


@pytest.mark.parametrize("mean", ["flat", "mean"])
@pytest.mark.parametrize("space", ["aa", "pca", "pca6"])
@pytest.mark.parametrize("side", SIDES)
def test_mano_forward_matches_stored_smplx(paths, reference, side, space, mean):
    prefix = f"{side}/{space}/{mean}/"
    case = {
        k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)
    }
    model = mano_files.load_mano(paths[side], side=side)
    compare(prefix, run_ours(model, case, space=space, mean=mean), case)


def convert_hand(source, out, capsys, *options):
    arguments = ["mano", "--src", str(source), "--out", str(out), *options]
    status = convert.main(arguments)
    return status, capsys.readouterr()


@pytest.mark.parametrize("side", SIDES)
def test_convert_keeps_what_chumpy_wrote(paths, tmp_path, capsys, side):
    out = tmp_path / "hand.npz"
    assert convert_hand(paths[side], out, capsys, "--side", side)[0] == 0
    before = mano_files.load_mano(paths[side], side=side)
    after = mano_files.load_mano(out, side=side)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def truncated(content):
    return content[:-1000]


def empty(content):
    return b""


def swapped_call(content):
    """The set's name becomes that of a call: what the file then asks for is run."""
    return content.replace(b"c__builtin__\nset\n", b"c__builtin__\neval\n")


def smpl_body(content):
    """Another model of the same family: other counts."""
    return content.replace(b"M\n\x03K\x03", b"M\xea\x1aK\x03")  # 778 -> 6890


@pytest.mark.parametrize(
    ("spoil", "side", "text"),
    [
        (truncated, "right", "truncated"),
        (empty, "right", "truncated"),
        (swapped_call, "right", "refused, it asks for __builtin__.eval"),
        (smpl_body, "right", "damaged"),
        (bytes, "left", "holds a right hand where a left one is needed"),
    ],
)
def test_convert_writes_nothing_from_a_bad_file(
    paths, tmp_path, capsys, spoil, side, text
):
    source, out = tmp_path / "MANO_RIGHT.pkl", tmp_path / "hand.npz"
    content = paths["right"].read_bytes()
    source.write_bytes(spoil(content))
    assert spoil is bytes or source.read_bytes() != content
    status, said = convert_hand(source, out, capsys, "--side", side)
    assert status == 2 and said.out == ""
    assert said.err.startswith(f"error: {source}: ") and said.err.count("\n") == 1
    assert text in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["MANO_RIGHT.pkl"]
