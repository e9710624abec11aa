"""Reads pickles of arrays from strangers: nothing but arrays can come out.

MANO's model and HO-3D's labels are pickles, some of Python 2. The unpickler here
resolves a short list of names, each to something inert: numpy's array parts, plain
containers, and stand-ins for the chumpy and scipy classes of the MANO file. Any other
name, hence any code, is refused before it is touched. Sizes are bounded.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homae_jax.errors import UserError

MAX_FILE_BYTES = 256 * 2**20
MAX_DEPTH = 50


class PickledObject:
    """Stand-in for a class instance: keeps its state, runs nothing."""

    def __init__(self, *args: Any):
        del args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class ChumpyArray(PickledObject):
    """chumpy.ch.Ch: its array under "x"."""


class ChumpySelect(PickledObject):
    """chumpy.reordering.Select: entries "idxs" of "a", in "preferred_shape"."""


class SparseMatrix(PickledObject):
    """scipy.sparse.csc_matrix: "data", "indices", "indptr" and "_shape"."""


class _Dtype:
    """Stand-in for numpy.dtype: numbers, booleans and short strings only."""

    def __init__(self, code: Any, *copy_flags: Any):
        del copy_flags
        dtype = np.dtype(code) if isinstance(code, (str, bytes)) else None
        if dtype is None or dtype.kind not in "biufSU" or dtype.itemsize > 1024:
            raise pickle.UnpicklingError(f"it holds an array of type {code!r:.40}")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        byte_order = state[1]
        byte_order = (
            byte_order.decode() if isinstance(byte_order, bytes) else byte_order
        )
        if byte_order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(byte_order)


class _Ndarray:
    """Stand-in for numpy.ndarray: takes its content as one run of bytes."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("it holds an array of an unknown type")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C").copy()


def _reconstruct(*args: Any) -> _Ndarray:
    """numpy's maker of an empty array, whose content follows as its state."""
    if not args or args[0] is not _Ndarray:
        raise pickle.UnpicklingError("it holds an array of an unknown class")
    return _Ndarray()


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it holds a number of an unknown type")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype.dtype, count=1)[0]


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """numpy's maker of an array of protocol 5."""
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it holds an array of an unknown type")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order).copy()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """What Python 3 writes for the bytes of a protocol-2 array."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("an unexpected encoding")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """What Python 3 writes for the content of an empty protocol-2 array."""
    return b""


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): dict,
    ("chumpy.ch", "Ch"): ChumpyArray,
    ("chumpy.reordering", "Select"): ChumpySelect,
    ("scipy.sparse.csc", "csc_matrix"): SparseMatrix,
    ("scipy.sparse._csc", "csc_matrix"): SparseMatrix,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def _plain(value: Any, *, depth: int) -> Any:
    """Puts arrays in place of their stand-ins, all the way down."""
    if depth > MAX_DEPTH:
        raise pickle.UnpicklingError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, _Ndarray):
        if value.array is None:
            raise pickle.UnpicklingError("it holds an array without content")
        return value.array
    if isinstance(value, (_Dtype, type)) or callable(value):
        raise pickle.UnpicklingError("it holds something that is not a value")
    if isinstance(value, dict):
        return {k: _plain(v, depth=depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v, depth=depth + 1) for v in value)
    if isinstance(value, PickledObject):
        value.state = _plain(value.state, depth=depth + 1)
    return value


def load_pickle(path: str | Path) -> Any:
    """Reads a pickle of arrays, numbers, strings and containers.

    Strings of Python 2 are read as latin-1. Nothing of the file is executed.

    Raises:
      UserError: missing, too large, truncated, or asking for anything else.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"{path}: {size} bytes are too many for a label or MANO file"
            )
        content = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    return loads_pickle(content, str(path))


def loads_pickle(content: bytes, where: str) -> Any:
    """`load_pickle` of bytes; `where` names them in errors."""
    try:
        loaded = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        return _plain(loaded, depth=0)
    except UserError:
        raise
    except MemoryError as e:
        raise UserError(f"{where}: refused, it asks for too much memory") from e
    except pickle.UnpicklingError as e:
        raise UserError(f"{where}: refused, {e}; expected arrays only") from e
    except Exception as e:  # a damaged pickle may fail anywhere in the machine
        raise UserError(
            f"{where}: damaged or not a pickle of arrays ({type(e).__name__})"
        ) from e
