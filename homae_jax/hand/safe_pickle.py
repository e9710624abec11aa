"""Reads pickles of arrays from strangers: nothing but arrays can come out.

MANO's model and HO-3D's labels are pickles, some of Python 2. The work has three
steps, none of which runs anything the file names or lets it choose how much memory it
takes: `_inspect` walks the opcodes and bounds them; the unpickler puts an inert
stand-in wherever the file names a class or function, from a short list, and refuses
every other name; `_Resolver` turns the stand-ins into arrays within a budget.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from homae_jax.errors import UserError

MAX_FILE_BYTES = 64 * 2**20  # the official MANO file has 4 MB, a label file 30 kB
MAX_OPCODES = 200_000
MAX_ARRAY_BYTES = 256 * 2**20  # of all arrays and strings together
MAX_DEPTH = 50
MAX_ITEM_BYTES = 1024  # longest string in an array of strings

_PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")


class StandIn:
    """Takes the place of a class or function of the file; keeps what it was given."""

    args: tuple = ()
    state: Any = None

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class ChumpyArray(StandIn):
    """chumpy.ch.Ch: its array is state["x"]."""


class ChumpySelect(StandIn):
    """chumpy.reordering.Select: entries "idxs" of "a", in "preferred_shape"."""


class SparseMatrix(StandIn):
    """scipy.sparse.csc_matrix: "data", "indices", "indptr" and "_shape"."""


class SparseRows(SparseMatrix):
    """scipy.sparse.csr_matrix: the same by rows."""


class _Rebuilt(StandIn):
    """An object as protocols 0 and 1 have it: class, its base; the state follows."""


class _Base(StandIn):
    """The base of such a class."""


class _Array(StandIn):
    """numpy's array and its maker; the state holds shape, type, order, content."""


class _ArrayFromBuffer(StandIn):
    """numpy's array of protocol 5: content, type, shape, order."""


class _Scalar(StandIn):
    """A number of a numpy type: type, content."""


class _Dtype(StandIn):
    """numpy's type: code; the byte order is in the state."""


class _Encoded(StandIn):
    """Bytes as Python 3 writes them under protocol 2: text, "latin1"."""


class _NoBytes(StandIn):
    """No bytes, as Python 3 writes them under protocol 2."""


class _Set(StandIn):
    """A set, given as a list."""


_STAND_INS: dict[tuple[str, str], type[StandIn]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encoded,
    ("__builtin__", "bytes"): _NoBytes,
    ("__builtin__", "set"): _Set,
    ("chumpy.ch", "Ch"): ChumpyArray,
    ("chumpy.reordering", "Select"): ChumpySelect,
    ("copy_reg", "_reconstructor"): _Rebuilt,
    ("__builtin__", "object"): _Base,
}
for _place in ("", "_"):  # old and new SciPy
    _STAND_INS[f"scipy.sparse.{_place}csc", "csc_matrix"] = SparseMatrix
    _STAND_INS[f"scipy.sparse.{_place}csr", "csr_matrix"] = SparseRows
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _Scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _ArrayFromBuffer


def load_pickle(path: str | Path) -> Any:
    """Reads a pickle of arrays, numbers, strings and containers.

    Strings of Python 2 are read as latin-1. Classes of the MANO file come back as
    `ChumpyArray`, `ChumpySelect`, `SparseMatrix` and `SparseRows`.

    Raises:
      UserError: missing, too large, truncated, or asking for anything else.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(f"{path}: {size} bytes, too large for a label or MANO file")
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    return loads_pickle(content, str(path))


def loads_pickle(content: bytes, where: str) -> Any:
    """`load_pickle` of bytes; `where` names them in errors."""
    try:
        _inspect(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        return _Resolver().resolve(loaded)
    except pickle.UnpicklingError as e:
        raise UserError(f"{where}: refused, {e}; expected arrays only") from e
    except Exception as e:  # a damaged pickle may fail anywhere in the machine
        raise UserError(
            f"{where}: truncated, damaged or not a pickle of arrays "
            f"({type(e).__name__}); get the file again"
        ) from e


def _inspect(content: bytes) -> None:
    """Walks the opcodes: complete, not too many, and no memo slot out of bounds.

    The unpickler allocates its memo up to the largest slot that is named.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count >= MAX_OPCODES:
            raise pickle.UnpicklingError(f"it has more than {MAX_OPCODES} steps")
        if opcode.name in _MEMO_WRITES and not 0 <= argument < MAX_OPCODES:
            raise pickle.UnpicklingError("it asks for too much memory")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[StandIn]:
        if (module, name) not in _STAND_INS:
            asked = f"{module}.{name}"[:80]
            asked = asked if asked.isprintable() else repr(asked)
            raise pickle.UnpicklingError(f"it asks for {asked}")
        return _STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


class _Resolver:
    """Turns what the unpickler made into values, each shared object once."""

    def __init__(self) -> None:
        self._budget = MAX_ARRAY_BYTES
        self._resolved: dict[int, Any] = {}  # by id; the originals outlive this
        self._open: set[int] = set()

    def resolve(self, value: Any) -> Any:
        if isinstance(value, _PLAIN_TYPES):
            return value
        key = id(value)
        if key in self._open or len(self._open) > MAX_DEPTH:
            raise pickle.UnpicklingError("it is nested in itself or too deeply")
        if key not in self._resolved:
            self._open.add(key)
            self._resolved[key] = self._resolve_object(value)
            self._open.discard(key)
        return self._resolved[key]

    def _resolve_object(self, value: Any) -> Any:
        match value:
            case list() | tuple():
                return type(value)(self.resolve(v) for v in value)
            case dict():
                return {self.resolve(k): self.resolve(v) for k, v in value.items()}
            case ChumpyArray() | ChumpySelect() | SparseMatrix():
                return self._object(type(value), value.state)
            case _Rebuilt():
                return self._object(value.args[0], value.state)
            case _Array():
                _, shape, dtype, is_fortran, raw = value.state
                order = "F" if is_fortran else "C"
                return self._array(raw, dtype).reshape(shape, order=order)
            case _ArrayFromBuffer():
                raw, dtype, shape, order = value.args
                return self._array(raw, dtype).reshape(shape, order=order)
            case _Scalar():
                dtype, raw = value.args
                return self._array(raw, dtype)[0]
            case _Encoded() | _NoBytes():
                return self._bytes(value)
            case _Set():
                return {self.resolve(v) for v in value.args[0]}
        raise pickle.UnpicklingError("it holds something that is not a value")

    def _object(self, kind: Any, state: Any) -> StandIn:
        if kind not in (ChumpyArray, ChumpySelect, SparseMatrix, SparseRows):
            raise pickle.UnpicklingError("it holds an object that is not a value")
        out = kind()
        out.state = self.resolve(state)
        return out

    def _array(self, raw: Any, dtype: Any) -> np.ndarray:
        return np.frombuffer(self._bytes(raw), _to_dtype(dtype)).copy()

    def _bytes(self, raw: Any) -> bytes:
        """The bytes of a string, which Python 2 and 3 write in different ways."""
        if isinstance(raw, _NoBytes) and not raw.args:
            return b""
        if isinstance(raw, _Encoded):
            raw, encoding = raw.args
            if encoding != "latin1":
                raise pickle.UnpicklingError("it holds bytes in an unknown encoding")
        if not isinstance(raw, (str, bytes, bytearray)):
            raise pickle.UnpicklingError("it holds an array without content")
        self._budget -= len(raw)
        if self._budget < 0:
            raise pickle.UnpicklingError("it asks for too much memory")
        return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _to_dtype(value: Any) -> np.dtype:
    """A type of numbers, truth values or short strings."""
    code = value.args[0] if isinstance(value, _Dtype) else None
    dtype = np.dtype(code) if isinstance(code, str) else None
    if dtype is None or dtype.kind not in "biufSU" or dtype.itemsize > MAX_ITEM_BYTES:
        raise pickle.UnpicklingError(f"it holds an array of type {code!r:.40}")
    byte_order = value.state[1] if value.state else "|"
    return dtype.newbyteorder(byte_order) if byte_order in ("<", ">") else dtype
