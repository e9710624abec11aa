import io
import os
import pickle
import struct

import numpy as np
import pytest
import scipy.sparse

from homae_jax.errors import UserError
from homae_jax.hand import safe_pickle
from homae_jax.hand.safe_pickle import load_pickle, loads_pickle

LABELS = {
    "camMat": np.array([[600.0, 0, 320], [0, 601, 240], [0, 0, 1]]),
    "handPose": np.arange(48, dtype=np.float32),
    "objRot": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    "bigEndian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3)),
    "names": np.array(["a", "bcd"]),
    "is": np.array([True, False]),
    "objLabel": np.int64(10),
    "objName": "010_potted_meat_can",
    "bytesName": b"010\xff",
    "none": None,
    "camIDList": ["0", "1"],
    "nested": ({"x": 1.5}, 2**70),
}


class Runs:
    """Pickles into a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def assert_same(read, written):
    assert type(read) is type(written)
    if isinstance(written, dict):
        assert read.keys() == written.keys()
        for key in written:
            assert_same(read[key], written[key])
    elif isinstance(written, (list, tuple)):
        assert len(read) == len(written)
        for a, b in zip(read, written, strict=True):
            assert_same(a, b)
    elif isinstance(written, np.ndarray):
        assert read.dtype == written.dtype and read.shape == written.shape
        np.testing.assert_array_equal(read, written)
    else:
        assert read == written


@pytest.mark.parametrize("protocol", range(6))
def test_loads_pickle_round_trips_every_protocol(protocol):
    assert_same(loads_pickle(pickle.dumps(LABELS, protocol=protocol), "x"), LABELS)


def python_2_array(array):
    """The opcodes Python 2 writes for an array: its content is a byte string."""
    raw = array.tobytes()
    shape = b"".join(b"K" + bytes([n]) for n in array.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01(" + shape + b"tcnumpy\ndtype\n(U\x02" + array.dtype.str[1:].encode()
        + b"K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip


def test_loads_pickle_reads_arrays_of_python_2():
    array = np.linspace(-1, 1, 12).reshape(4, 3)  # bytes above 127 included
    assert max(array.tobytes()) > 127
    name = b"U\x04name" + b"U\x03\xe9ab"
    content = b"\x80\x02}(U\x01a" + python_2_array(array) + name + b"u."
    read = loads_pickle(content, "x")
    np.testing.assert_array_equal(read["a"], array)
    assert read["name"] == "\xe9ab"


def test_load_pickle_arrays_are_writable(tmp_path):
    path = tmp_path / "0.pkl"
    path.write_bytes(pickle.dumps(LABELS, protocol=2))
    load_pickle(path)["camMat"][0, 0] = 1.0


HOSTILE = {
    "system": lambda marker: Runs(os.system, f"touch {marker}"),
    "eval": lambda marker: Runs(eval, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Runs(open, str(marker), "w"),
    "mkdir": lambda marker: Runs(os.mkdir, str(marker)),
    "numpy": lambda marker: Runs(np.save, f"{marker}.npy", [1]),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_load_pickle_refuses_calls_and_runs_nothing(tmp_path, name, protocol):
    path, marker = tmp_path / "0.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"a": HOSTILE[name](marker)}, protocol=protocol))
    with pytest.raises(UserError, match=r"0\.pkl: refused, it asks for \w+\.") as info:
        load_pickle(path)
    assert "\n" not in str(info.value)
    assert [p.name for p in tmp_path.iterdir()] == ["0.pkl"]
    if protocol and name != "open":  # the attack is a real one
        pickle.loads(path.read_bytes())
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"(S'touch {marker}'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",  # STACK_GLOBAL
        b"cnumpy\ndtype.newbyteorder\n.",
        b"\x80\x04\x8c\x05a\nb\x1b[\x8c\x03c\nd\x93.",  # a name of several lines
        b"chomae_jax.hand.safe_pickle\n_Resolver\n.",
        b"P1\n.",  # persistent id
        b"cnumpy\nndarray\n.",  # a class is no value
        b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR.",
        b"cnumpy\ndtype\n(U\x01OK\x00K\x01tR.",
    ],
)
def test_loads_pickle_refuses_what_is_no_value(content):
    with pytest.raises(UserError, match=r"^x: "):
        loads_pickle(content, "x")


def test_loads_pickle_refuses_object_arrays():
    content = pickle.dumps(np.array([None, print], dtype=object), protocol=2)
    with pytest.raises(UserError, match=r"^x: refused"):
        loads_pickle(content, "x")


def test_loads_pickle_cannot_be_changed_by_a_file():
    """State built onto the stand-ins themselves must not stick."""
    before = {k: dict(vars(c)) for k, c in safe_pickle._STAND_INS.items()}
    for module, name in safe_pickle._STAND_INS:
        for state in (b"}U\x04argsK\x01s", b"(N}U\x05stateK\x01st"):
            content = f"\x80\x02c{module}\n{name}\n".encode() + state + b"b."
            with pytest.raises(UserError):
                loads_pickle(content, "x")
    after = {k: dict(vars(c)) for k, c in safe_pickle._STAND_INS.items()}
    assert before == after


def doubling_lists(depth):
    """Each list holds the one before ten times: 10^depth when written out."""
    out = [0]
    for _ in range(depth):
        out = [out] * 10
    return out


def test_loads_pickle_does_not_write_out_shared_lists():
    read = loads_pickle(pickle.dumps(doubling_lists(30), protocol=2), "x")
    assert read[0] is read[9]


def array_sharing_its_content(count):
    """Many arrays over one run of bytes, which the file holds once."""
    raw = b"\x00" * 2**20
    one = (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01(J" + struct.pack("<i", len(raw)) + b"tcnumpy\ndtype\n"
        b"(U\x02u1K\x00K\x01tR\x89h\x00tb"
    )  # fmt: skip
    return b"\x80\x02](T" + struct.pack("<i", len(raw)) + raw + b"q\x00" + one * count


TOO_MUCH, TOO_DEEP = "asks for too much memory", "nested in itself or too deeply"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]r\xf0\xff\xff\x7f.", TOO_MUCH),  # a memo of two billion slots
        (b"\x80\x02]p999999999\n.", TOO_MUCH),
        (b"\x80\x02(" + b"]" * 250_000 + b"l.", "more than 200000 steps"),
        (array_sharing_its_content(1000) + b"e.", TOO_MUCH),  # a gigabyte of one MB
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.", "truncated"),
        (b"\x80\x02]q\x00h\x00a.", TOO_DEEP),
        (b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".", TOO_DEEP),
    ],
    ids=["memo", "text_memo", "steps", "shared", "length", "itself", "depth"],
)
def test_loads_pickle_bounds_memory(content, message):
    with pytest.raises(UserError, match=f"^x: .*{message}"):
        loads_pickle(content, "x")


def test_loads_pickle_reads_shared_content_within_the_budget():
    arrays = loads_pickle(array_sharing_its_content(3) + b"e.", "x")
    assert [a.nbytes for a in arrays[1:]] == [2**20] * 3


def test_load_pickle_refuses_large_files_unread(tmp_path):
    path = tmp_path / "0.pkl"
    with path.open("wb") as file:
        file.truncate(safe_pickle.MAX_FILE_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(UserError, match=r"0\.pkl: \d+ bytes, too large"):
        load_pickle(path)


def test_load_pickle_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.pkl: cannot be read \(No such file"):
        load_pickle(tmp_path / "none.pkl")


@pytest.mark.parametrize("protocol", [2, 4])
def test_loads_pickle_refuses_every_truncation(protocol):
    content = pickle.dumps(LABELS, protocol=protocol)
    for end in range(0, len(content), 11):
        with pytest.raises(UserError, match=r"^x: truncated"):
            loads_pickle(content[:end], "x")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_loads_pickle_never_fails_otherwise_on_damaged_bytes():
    rng = np.random.default_rng(0)
    content = np.frombuffer(pickle.dumps(LABELS, protocol=2), np.uint8)
    num_refused = 0
    for _ in range(300):
        damaged = content.copy()
        damaged[rng.integers(len(damaged), size=3)] = rng.integers(256, size=3)
        try:
            loads_pickle(damaged.tobytes(), "x")
        except UserError as error:
            assert "\n" not in str(error)
            num_refused += 1
    assert num_refused > 50


def test_loads_pickle_keeps_the_state_of_mano_classes():
    buffer = io.BytesIO()
    buffer.write(b"\x80\x02cchumpy.ch\nCh\n)\x81}U\x01xK\x05sb.")
    read = loads_pickle(buffer.getvalue(), "x")
    assert isinstance(read, safe_pickle.ChumpyArray) and read.state == {"x": 5}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", ["csc_matrix", "csr_matrix"])
def test_loads_pickle_reads_sparse_matrices_of_every_protocol(kind, protocol):
    matrix = getattr(scipy.sparse, kind)(np.array([[0.0, 2.0], [3.0, 0.0]]))
    read = loads_pickle(pickle.dumps({"J": matrix}, protocol=protocol), "x")["J"]
    assert isinstance(read, safe_pickle.SparseRows) == (kind == "csr_matrix")
    for key in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(read.state[key], getattr(matrix, key))


def test_loads_pickle_rebuilds_no_other_class():
    for name in ("numpy\nndarray", "numpy\ndtype", "copy_reg\n_reconstructor"):
        content = f"ccopy_reg\n_reconstructor\n(c{name}\nc__builtin__\nobject\nNtR."
        with pytest.raises(UserError, match=r"^x: refused, it holds an object"):
            loads_pickle(content.encode(), "x")
