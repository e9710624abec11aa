"""Every reader of files from strangers: good files, attacks, and how to call it.

Seeds are made here, not stored: what a reader accepts, small. The corpora are attacks
of the kinds known for each format; each must end in a `UserError`, or in a value if it
is harmless after all.
"""

import functools
import io
import json
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from safetensors.numpy import save as save_safetensors

from homae_jax import assembly, bundle, runtime, weights
from homae_jax.data import dexycb_files
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.data.pictures import read_picture
from homae_jax.errors import UserError
from homae_jax.hand import mano_files
from homae_jax.hand.mano_files import load_mano
from homae_jax.models import dinov2
from homae_jax.schema import ObjectTemplates
from homae_jax.training import checkpoint
from tests.data import dexycb_tree, ho3d_tree
from tests.hand.built_hand import built_hand

Read = Callable[[], Any]
BOMB_BYTES = 2**31  # what a bomb unpacks to


class Parser(NamedTuple):
    """A reader of one kind of file."""

    name: str
    file_name: str  # of the input, in the folder that `prepare` is given
    seeds: Callable[[], list[bytes]]
    corpus: Callable[[], dict[str, bytes]]
    prepare: Callable[[Path], Read]
    words: Sequence[bytes]


def check_names(names: Sequence[str]) -> None:
    """Raises SystemExit for a parser that there is not."""
    for name in names:
        if name not in PARSERS:
            raise SystemExit(f"--parsers={name}: use {', '.join(PARSERS)}")


# --- pickles: MANO's model, HO-3D's labels ---

PICKLE_WORDS = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"c__builtin__\nexec\n", b"R", b"b",
    b"\x81", b"\x93", b".", b"(", b"t", b"d", b"l", b"u", b"a", b"e", b"\x94", b"h\x00",
    b"j", b"r\xff\xff\xff\x7f", b"p999999\n", b"T\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"\x8d" + b"\xff" * 8, b"\x95" + b"\xff" * 8, b"\x8a\xff", b"\x8b\xff\xff\xff\x7f",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"P0\n", b"Q", b"\x82\x01", b"\x80\x05",
    b"ccopyreg\n_reconstructor\n", b"I99999999999999999999\n", b"F1e999\n", b"N", b"0",
)  # fmt: skip
CALL = b"cos\nsystem\n(S'touch owned'\ntR."
NESTED = 50_000


class _Calls:
    """Pickles into a call."""

    def __init__(self, function: Callable, *arguments: Any):
        self._call = function, arguments

    def __reduce__(self) -> tuple:
        return self._call


def hostile_pickles() -> dict[str, bytes]:
    """Calls in every disguise, memory asked for in every way, endless structures."""
    import os
    import subprocess

    owned = "touch owned"
    found = {
        "system": CALL,
        "in a dictionary": b"\x80\x02}U\x06camMat" + CALL[:-1] + b"s.",
        "inst": b"(S'touch owned'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'touch owned'\no.",
        "stack_global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0b"
        b"touch owned\x85R.",
        "getattr": b"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
        "build": b"cnumpy\nndarray\n)\x81}S'__class__'\ncos\nsystem\nsb.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"P/etc/passwd\n.",
        "memo": b"r\xff\xff\xff\x7f.",
        "long memo": b"Np4294967295\n.",
        "string": b"T\xff\xff\xff\x7fx.",
        "unicode8": b"\x8d" + struct.pack("<Q", 2**40) + b"x.",
        "bytearray8": b"\x96" + struct.pack("<Q", 2**60) + b"x.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "long": b"\x8b\xff\xff\xff\x7f.",
        "many digits": b"I" + b"9" * 200_000 + b"\n.",
        "nested lists": b"(" + b"]" * NESTED + b"a" * (NESTED - 1) + b".",
        "nested tuples": b"N" + b"\x85" * NESTED + b".",
        "nested marks": b"(" * NESTED + b"t" * NESTED + b".",
        "in itself": b"]q\x00h\x00a.",
        "laughs": b"]q\x00" + b"".join(
            b"](" + b"h" + bytes([i]) + b"2" * 9 + b"eq" + bytes([i + 1])
            for i in range(60)
        ) + b".",
        "doubled": b"K\x01" + b"2\x86" * 60 + b".",
        "unhashable": b"}]K\x01s.",
        "empty": b"",
        "huge shape": _array_pickle((2**31, 2**31), "f8", b""),
        "negative shape": _array_pickle((-5, 3), "f8", b"\0" * 8),
        "objects": _array_pickle((1,), "O8", b"\0" * 8),
        "void": _array_pickle((1,), "V2000000000", b""),
        "dates": _array_pickle((1,), "M8", b"\0" * 8),
        "fields": _array_pickle((1,), "f8,O", b"\0" * 16),
    }  # fmt: skip
    for number, call in enumerate(
        (
            _Calls(os.system, owned),
            _Calls(eval, "__import__('os').system('touch owned')"),
            _Calls(exec, "open('owned', 'w')"),
            _Calls(subprocess.Popen, owned),
            _Calls(open, "owned", "w"),
            _Calls(np.save, "owned.npy", [1]),
            _Calls(np.load, "/etc/passwd", None, True),
            _Calls(np.fromfile, "/etc/passwd"),
            _Calls(__import__, "antigravity"),
            _Calls(functools.partial, os.system, owned),
        )
    ):
        for protocol in (0, 2, 4, 5):
            content = pickle.dumps({"camMat": call}, protocol=protocol)
            found[f"call {number}.{protocol}"] = content
    return found


def _array_pickle(shape: tuple[int, ...], code: str, raw: bytes) -> bytes:
    """An array by hand, whatever its parts say."""
    body = pickle.dumps(((1, shape), raw), protocol=2)[2:-1]
    del body
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'" + code.encode() + b"'\nK\x00K\x01tR"
    sizes = b"(" + b"".join(b"I%d\n" % n for n in shape) + b"t"
    text = b"T" + struct.pack("<i", len(raw)) + raw
    return head + b"(K\x01" + sizes + dtype + b"I00\n" + text + b"tb."


def _mano_seeds() -> list[bytes]:
    """The project's own hand in the official form, and small pickles of its keys."""
    folder = _scratch()
    mano_files.write_mano_pkl(built_hand(), folder / "hand.pkl")
    small = {name: np.zeros((2, 3)) for name in mano_files.SHAPES}
    return [
        (folder / "hand.pkl").read_bytes(),
        *(pickle.dumps(small, protocol=p) for p in (0, 2, 4)),
    ]


def _scratch() -> Path:
    """A new folder, which goes with the process."""
    return Path(tempfile.mkdtemp(dir=_scratches().name))


@functools.cache
def _scratches() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="fuzz_seeds_")


def _read_mano(folder: Path) -> Read:
    return lambda: load_mano(folder / "MANO_RIGHT.pkl")


def _meta_seeds() -> list[bytes]:
    meta = ho3d_tree.train_meta(ho3d_tree.frame_labels(ho3d_tree.TRAIN[0]))
    return [pickle.dumps(meta, protocol=p) for p in (0, 1, 2, 3, 4, 5)]


def _read_meta(folder: Path) -> Read:
    """A tree of one frame, whose label file is a link to the input."""
    source = _one_frame(folder / "tree", meta=folder / "0001.pkl")
    return lambda: (source[0], source.frame_info(0), source.ground_truth(0))


def _one_frame(root: Path, *, meta: Path) -> Ho3dSource:
    sequence = root / "train" / "SM2"
    for kind in ("rgb", "meta"):
        (sequence / kind).mkdir(parents=True)
    cv2.imwrite(str(sequence / "rgb" / "0001.png"), np.zeros((8, 8, 3), np.uint8))
    (sequence / "meta" / "0001.pkl").symlink_to(meta)
    (root / "train.txt").write_text("SM2/0001\n")
    return Ho3dSource(root, "train")


# --- JSON beside HO-3D: truth, visibility ---

JSON_WORDS = (
    b"NaN", b"Infinity", b"-1e999", b"null", b"true", b"[[", b"]]", b"]]]", b"{}",
    b"[]", b'"', b'"\\ud800"', b"1" * 400, b",", b":", b"[" * 2000,
)  # fmt: skip


def hostile_json() -> dict[str, bytes]:
    """Depth, size, numbers and names that a JSON reader may trip over."""
    return {
        "empty": b"",
        "null": b"null",
        "list": b"[]",
        "number": b"3",
        "deep lists": b"[" * 200_000,
        "deep objects": b'{"a":' * 200_000,
        "many digits": b"[" + b"9" * 100_000 + b"]",
        "float": b"1e999999999",
        "large": b"[[[" + b"9" * 400 + b", 0, 0]]]",
        "not utf-8": b'{"\xff\xfe": 1}',
        "surrogate": b'{"\\ud800": "\\udc00"}',
        "twice": b'{"model": {}, "model": 3}',
        "dunder": b'{"__class__": "os.system", "model": {"__init__": []}}',
        "nul": b'{"model\\u0000": "\\u0000"}',
        "zeros": b"\0" * 10_000,
    }


def _truth_seeds() -> list[bytes]:
    rows = np.round(np.random.default_rng(0).normal(size=(2, 21, 3)), 3).tolist()
    return [json.dumps(rows).encode(), json.dumps(rows, indent=1).encode()]


def _read_truth(folder: Path) -> Read:
    root = folder / "tree"
    (root / "evaluation" / "SM1").mkdir(parents=True)
    (root / "evaluation.txt").write_text("SM1/0001\nSM1/0002\n")
    (root / "evaluation_xyz.json").symlink_to(folder / "evaluation_xyz.json")

    def read() -> Any:
        source = Ho3dSource(root, "evaluation")
        return [source.ground_truth(row) for row in range(2)]

    return read


def _visibility_seeds() -> list[bytes]:
    return [json.dumps({"SM2/0001": [0.5, 1.0]}).encode()]


def _read_visibility(folder: Path) -> Read:
    _one_frame(folder / "tree", meta=folder / "0001.pkl")
    (folder / "0001.pkl").write_bytes(_meta_seeds()[2])
    link = folder / "tree" / "visibility_train.json"
    link.symlink_to(folder / "visibility.json")
    return lambda: Ho3dSource(folder / "tree", "train").frame_info(0)


# --- pictures ---


def _picture_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 32, 3), np.uint8)
    smooth = cv2.resize(small, (96, 72))
    grey = small[..., 0]
    encoded = [
        cv2.imencode(kind, picture, options)[1].tobytes()
        for picture in (small, smooth, grey)
        for kind, options in (
            (".png", []),
            (".jpg", []),
            (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        )
    ]
    return [*encoded, cv2.imencode(".png", grey.astype(np.uint16))[1].tobytes()]


def _png(
    width: int, height: int, body: bytes, *, depth: int = 8, kind: int = 2
) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
        )

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def hostile_pictures() -> dict[str, bytes]:
    """Headers of impossible sizes, bombs, and what only looks like a picture."""
    zeros = zlib.compress(b"\0" * (2**20), 9)
    jpeg = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    size = jpeg.index(b"\xff\xc0") + 5
    big = jpeg[:size] + b"\xff\xff\xff\xff" + jpeg[size + 4 :]
    found = {
        "empty": b"",
        "ends alone": b"\xff\xd8\xff\xd9",
        "png ends alone": b"\x89PNG\r\n\x1a\nIEND",
        "jpeg 65535 x 65535": big,
        "jpeg 0 x 0": jpeg[:size] + b"\0\0\0\0" + jpeg[size + 4 :],
        "many scans": jpeg[:-2] + jpeg[2:-2] * 400 + b"\xff\xd9",
        "png 0 x 0": _png(0, 0, zeros),
        "huge chunk": b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR" + b"IEND",
        "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
        "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**30, 2**30,
                                   1, 24, 0, 0, 0, 0, 0, 0),
        "tiff": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200,
        "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 999999 +X 999999\n",
        "pnm": b"P6 99999 99999 255\n",
        "pfm": b"PF\n99999 99999\n-1.0\n",
        "exr": b"\x76\x2f\x31\x01" + b"\xff" * 100,
        "webp": b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 40,
        "jp2": b"\xff\x4f\xff\x51" + b"\xff" * 60,
    }  # fmt: skip
    for width, height in ((2**31 - 1, 2**31 - 1), (60_000, 60_000), (30_000, 30_000)):
        found[f"png {width} x {height}"] = _png(width, height, zeros)
    found["png of 16 bits"] = _png(20_000, 20_000, zeros, depth=16, kind=6)
    return found


def _read_picture(folder: Path) -> Read:
    def read() -> Any:
        picture = read_picture(folder / "0001.png")
        if picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise TypeError(f"{picture.dtype} {picture.shape}")
        return picture

    return read


# --- archives of arrays: hands and weights ---

ZIP_WORDS = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"../",
    b"\x93NUMPY",
    b"'descr'",
)


def _npy(header: bytes, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def hostile_zips(name: str) -> dict[str, bytes]:
    """Paths that lead out, bombs, and arrays whose headers ask for code or memory.

    Args:
      name: of an array that the reader looks for.
    """
    headers = {
        "object": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "huge": b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000,), }",
        "overflow": b"{'descr': '<f8', 'fortran_order': False, 'shape': "
        b"(4611686018427387904, 4), }",
        "negative": b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "code": b"{'descr': __import__('os').system('touch owned'), }",
        "deep": b"(" * 5000,
        "empty": b"",
        "no shape": b"{'descr': '<f8'}",
        "void": b"{'descr': '|V2000000000', 'fortran_order': False, 'shape': (), }",
        "fields": b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }",
    }
    found = {
        f"array {kind}": _zip({f"{name}.npy": _npy(header)})
        for kind, header in headers.items()
    }
    pickled = _npy(headers["object"], CALL)
    found["pickled array"] = _zip({f"{name}.npy": pickled})
    for path in (
        "../owned.npy",
        "/tmp/owned.npy",
        "..\\owned.npy",
        "a/../../owned.npy",
    ):
        found[f"path {path}"] = _zip({path: _npy(headers["no shape"])})
    found["bomb"] = _bomb(f"{name}.npy")
    found["a hundred thousand names"] = _zip({f"{i}": b"" for i in range(20_000)})
    found["no archive"] = b"PK\x05\x06" + b"\0" * 18
    found["comment"] = b"PK\x05\x06" + b"\0" * 16 + b"\xff\xff"
    found["pickle"] = CALL
    found["empty"] = b""
    return found


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


@functools.cache
def _bomb(path: str) -> bytes:
    """A few megabytes that unpack to two gigabytes."""
    count = BOMB_BYTES // 8
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % count
    buffer, block = io.BytesIO(), b"\0" * 2**22
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(path, "w", force_zip64=True) as file,
    ):
        file.write(_npy(header))
        for _ in range(BOMB_BYTES // len(block)):
            file.write(block)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _hand_npz_seeds() -> list[bytes]:
    """A whole hand, and one whose arrays are too small, which is quicker."""
    folder = _scratch()
    mano_files.write_mano_pkl(built_hand(), folder / "hand.pkl")
    mano_files.save_mano_npz(load_mano(folder / "hand.pkl"), folder / "hand.npz")
    small = {name: np.zeros((2, 3)) for name in mano_files.NPZ_KEYS}
    return [(folder / "hand.npz").read_bytes(), _npz(small)]


def _read_hand_npz(folder: Path) -> Read:
    return lambda: load_mano(folder / "hand.npz")


def _objects_npz_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(2, 1000, 3)).round(1).astype(np.float32)
    templates = ObjectTemplates(
        vertices=vertices,
        faces=rng.integers(0, 1000, (2, 4, 3)).astype(np.int32),
        corners=vertices[:, :8],
        sdf_grid=vertices,
        sdf_origin=vertices,
        sdf_pitch=vertices,
    )
    return [bundle.pack_objects(templates, ("004_sugar_box", "025_mug"))]


def _read_objects_npz(folder: Path) -> Read:
    return lambda: bundle.read_objects(folder / bundle.OBJECTS)


def _weight_arrays() -> dict[str, np.ndarray]:
    """The names of an encoder's weights, few of its numbers."""
    rng = np.random.default_rng(0)
    names = {
        "cls_token": (1, 1, 8),
        "pos_embed": (1, 5, 8),
        "patch_embed.proj.weight": (8, 3, 14, 14),
        "patch_embed.proj.bias": (8,),
        "blocks.0.norm1.weight": (8,),
        "blocks.0.attn.qkv.weight": (24, 8),
        "blocks.0.mlp.fc1.weight": (32, 8),
    }
    return {k: rng.normal(size=v).astype(np.float32) for k, v in names.items()}


def _read_weights(path: Path) -> Read:
    def read() -> Any:
        state, metadata = dinov2.read_weights(path)
        dinov2.check_image_statistics(path, metadata)
        return state, _variant(state, path)

    return read


def _variant(state: dict, path: Path) -> str:
    """The variant; that toys are of none is no failure of the reader."""
    try:
        return dinov2.detect_variant(state, path)
    except UserError:
        return ""


def _npz_weight_seeds() -> list[bytes]:
    text = json.dumps({"image_mean": [0.485, 0.456, 0.406]})
    buffer = io.BytesIO()
    np.savez(buffer, **_weight_arrays(), **{dinov2.METADATA_KEY: np.array(text)})
    return [buffer.getvalue(), _npz(_weight_arrays())]


def _safetensors_seeds() -> list[bytes]:
    text = json.dumps({"image_mean": [0.485, 0.456, 0.406]})
    return [
        save_safetensors(_weight_arrays()),
        save_safetensors(_weight_arrays(), metadata={dinov2.METADATA_KEY: text}),
    ]


def hostile_safetensors() -> dict[str, bytes]:
    """Headers that lie about sizes, offsets and types."""

    def file(header: Any, content: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content

    def tensor(dtype: str, shape: list, offsets: list) -> dict:
        return {"pos_embed": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    return {
        "empty": b"",
        "short": b"\x01",
        "huge header": struct.pack("<Q", 2**63),
        "long header": struct.pack("<Q", 2**31) + b"{}",
        "no json": file(b"\xff" * 40),
        "deep": file(b'{"a":' * 20_000),
        "outside": file(tensor("F32", [1], [0, 2**40])),
        "backwards": file(tensor("F32", [1], [4, 0]), b"\0" * 4),
        "overflow": file(tensor("F32", [2**62, 4], [0, 4]), b"\0" * 4),
        "negative": file(tensor("F32", [-1], [0, 4]), b"\0" * 4),
        "type": file(tensor("OBJECT", [1], [0, 4]), b"\0" * 4),
        "brain": file(tensor("BF16", [2], [0, 4]), b"\0" * 4),
        "eight": file(tensor("F8_E4M3", [4], [0, 4]), b"\0" * 4),
        "huge zero": file(tensor("F32", [2**40, 0], [0, 0])),
        "metadata": file({"__metadata__": {dinov2.METADATA_KEY: "[" * 9999}}),
        "metadata list": file({"__metadata__": {dinov2.METADATA_KEY: "[1]"}}),
        "metadata mean": file(
            {"__metadata__": {dinov2.METADATA_KEY: '{"image_mean": "a"}'}}
        ),
        "metadata config": file(
            {"__metadata__": {dinov2.METADATA_KEY: '{"pretrained_cfg": 3}'}}
        ),
    }


# --- what this project writes: checkpoints, exports, their configurations ---


def _config_seeds() -> list[bytes]:
    from configs import common, synthetic

    configs = (common.get_config(), synthetic.get_config())
    return [assembly.config_to_json(config).encode() for config in configs]


def _read_config(folder: Path) -> Read:
    path = folder / "config.json"
    runtime.has_bfloat16()  # starts the device, whose memory is no reader's

    def read() -> Any:
        text = path.read_text(errors="replace")
        config = assembly.config_from_json(text, str(path))
        assembly.target_options(config)
        assembly.loss_options(config)
        assembly.example_options(config, ("006_mustard_bottle",))
        return assembly.build_model(config)

    return read


def _manifest_seeds() -> list[bytes]:
    return [(_export() / weights.MANIFEST).read_bytes()]


@functools.cache
def _export() -> Path:
    config = json.dumps({"model": {}})
    params = {"vit": {"kernel": np.ones((2, 3), np.float32)}}
    return weights.write_export(_scratch() / "out", params, config_json=config, step=3)


def _read_manifest(folder: Path) -> Read:
    import shutil

    export = shutil.copytree(_export(), folder / "export")
    (export / weights.MANIFEST).unlink()
    (export / weights.MANIFEST).symlink_to(folder / weights.MANIFEST)
    return lambda: weights.load_export(export)


def hostile_manifests() -> dict[str, bytes]:
    """Names that lead out of the export."""
    good = json.loads(_manifest_seeds()[0])
    found = hostile_json()
    for name in (
        "a" * 300,
        "a/" * 3000,
        "a\nb",
        "../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "..",
    ):
        files = good["files"] | {name: {"sha256": "0", "bytes": 1}}
        found[name] = json.dumps(good | {"files": files}).encode()
    return found


def _meta_file_seeds() -> list[bytes]:
    return [(_run() / "checkpoints" / "3" / checkpoint.META).read_bytes()]


def _hashes_seeds() -> list[bytes]:
    return [(_run() / "checkpoints" / "3" / checkpoint.HASHES).read_bytes()]


@functools.cache
def _run() -> Path:
    """A run with one checkpoint."""
    from tests.training.checkpoint_test import make_state

    workdir = _scratch()
    saver = checkpoint.Checkpointer(workdir, keep=1)
    saver.save(3, make_state(), data={"next_index": 5}, config={"model": {"width": 3}})
    saver.wait()
    return workdir


def _read_step_file(name: str, folder: Path) -> Read:
    """A checkpoint of which one file is the input."""
    import shutil

    workdir = shutil.copytree(_run(), folder / "run")
    target = workdir / "checkpoints" / "3" / name
    given = folder / Path(name).name

    def read() -> Any:
        shutil.copyfile(given, target)
        if name == checkpoint.HASHES:
            return checkpoint.verify(workdir, 3)
        return checkpoint.read_config(workdir, 3)

    return read


def _state_seeds() -> list[bytes]:
    """Every file of a checkpoint's arrays, after its name."""
    folder = _run() / "checkpoints" / "3"
    return [
        path.relative_to(folder).as_posix().encode() + b"\n" + path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != checkpoint.HASHES
    ]


def _read_state(folder: Path) -> Read:
    """A checkpoint in which one file is replaced, with hashes that say it is right."""
    import shutil

    from tests.training.checkpoint_test import make_state

    workdir = shutil.copytree(_run(), folder / "run")
    step = workdir / "checkpoints" / "3"
    originals = {
        path.relative_to(step).as_posix(): path.read_bytes()
        for path in step.rglob("*")
        if path.is_file()
    }
    like = make_state()

    def read() -> Any:
        name, _, content = (folder / "input").read_bytes().partition(b"\n")
        target = name.decode("latin1")
        if target not in originals:
            raise UserError("the name was changed")
        (step / target).write_bytes(content)
        hashes = checkpoint._hashes(step)
        (step / checkpoint.HASHES).write_text(json.dumps(hashes))
        try:
            checkpoint.choose_step(workdir)
            return checkpoint.restore(workdir, 3, like)
        finally:
            (step / target).write_bytes(originals[target])

    return read


# --- DexYCB: YAML beside the data, labels in archives ---

YAML_WORDS = (
    b"!!python/object/apply:os.system ['touch owned']", b"!!python/name:os.system",
    b"!!python/tuple [1]", b"!!binary x", b"!!int ''", b"!!timestamp x", b"&a", b"*a",
    b"<<: *a", b": ", b"- ", b"? ", b"|\n", b">-\n", b"---\n", b"%YAML 9.9\n", b"{",
    b"[",
)  # fmt: skip


def hostile_yaml() -> dict[str, bytes]:
    """Tags that call, references that multiply, values whose makers fail."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    found = {
        tag: f"serials: !!python/{tag}\n".encode()
        for tag in (
            "object/apply:os.system ['touch owned']",
            "object/new:subprocess.Popen [['touch', 'owned']]",
            "object:os.system {}",
            "name:os.system",
            "module:antigravity",
            "tuple [1, [2]]",
        )
    }
    for key in ("num_frames", "ycb_ids", "mano_sides", "mano_calib", "betas", "color"):
        found[f"laughs in {key}"] = f"{laughs}{key}: [*a11]\n".encode()
        found[f"laughs as {key}"] = f"{laughs}{key}: *a11\n".encode()
    for value in (
        "!!int ''",
        "!!timestamp x",
        "!!bool x",
        "!!float ''",
        "!!binary x",
        "!!set {a, b}",
        "!!omap [a]",
        "!!pairs 3",
        "9" * 5000,
        "1" * 500,
        "190:20:30",
        "2001-99-99",
        "&a [*a]",
        "0x",
        "0b",
        "_",
        ".inf",
    ):
        found[value] = f"num_frames: {value}\n".encode()
    found["merged"] = b"a: &a {b: 1}\n<<: [*a, *a, 3]\n"
    found["deep"] = b"[" * 20_000
    found["deep blocks"] = b"".join(b" " * i + b"-\n" for i in range(1000))
    found["control"] = b"\x00\x01: \xff\xfe"
    found["empty"] = b""
    return found  # fmt: skip


@functools.cache
def _dexycb() -> Path:
    return dexycb_tree.write_tree(_scratch() / "dexycb")


def _yaml_seeds() -> list[bytes]:
    """One file of each kind; each is given to all three readers."""
    return [path.read_bytes() for path in sorted(_dexycb().rglob("*.yml"))[:12]]


def _read_yaml(folder: Path) -> Read:
    root = folder / "tree"
    sequence = root / "20200709-subject-01" / "20200709_141754"
    camera = root / "calibration" / "intrinsics" / "836212060125_640x480.yml"
    hand = root / "calibration" / "mano_x" / "mano.yml"
    for path in (sequence / "meta.yml", camera, hand):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder / "meta.yml")

    def read() -> Any:
        errors = []
        for reader, arguments in (
            (dexycb_files.read_sequence, (root, sequence.parent.name, sequence.name)),
            (dexycb_files.read_intrinsics, (root, "836212060125")),
            (dexycb_files.read_betas, (root, "x")),
        ):
            try:
                reader(*arguments)
            except UserError as error:
                errors.append(error)
        if len(errors) == 3:
            raise errors[0]

    return read


def _label_seeds() -> list[bytes]:
    paths = sorted(_dexycb().rglob("labels_*.npz"))
    return [path.read_bytes() for path in paths[:2]]


def _read_labels(folder: Path) -> Read:
    keys = ("seg", "pose_y", "pose_m", "joint_3d")
    return lambda: dexycb_files.read_labels(folder / "labels.npz", keys)


PARSERS = {
    parser.name: parser
    for parser in (
        Parser("ho3d_meta", "0001.pkl", _meta_seeds, hostile_pickles, _read_meta,
               PICKLE_WORDS),
        Parser("mano_pkl", "MANO_RIGHT.pkl", _mano_seeds, hostile_pickles, _read_mano,
               PICKLE_WORDS),
        Parser("objects_npz", bundle.OBJECTS, _objects_npz_seeds,
               functools.partial(hostile_zips, "faces"), _read_objects_npz, ZIP_WORDS),
        Parser("mano_npz", "hand.npz", _hand_npz_seeds,
               functools.partial(hostile_zips, "faces"), _read_hand_npz, ZIP_WORDS),
        Parser("ho3d_truth", "evaluation_xyz.json", _truth_seeds, hostile_json,
               _read_truth, JSON_WORDS),
        Parser("visibility", "visibility.json", _visibility_seeds, hostile_json,
               _read_visibility, JSON_WORDS),
        Parser("pictures", "0001.png", _picture_seeds, hostile_pictures, _read_picture,
               ()),
        Parser("weights_npz", "w.npz", _npz_weight_seeds,
               functools.partial(hostile_zips, "pos_embed"),
               lambda folder: _read_weights(folder / "w.npz"), ZIP_WORDS),
        Parser("safetensors", "w.safetensors", _safetensors_seeds, hostile_safetensors,
               lambda folder: _read_weights(folder / "w.safetensors"), JSON_WORDS),
        Parser("config", "config.json", _config_seeds, hostile_json, _read_config,
               JSON_WORDS),
        Parser("export", weights.MANIFEST, _manifest_seeds, hostile_manifests,
               _read_manifest, JSON_WORDS),
        Parser("checkpoint_meta", checkpoint.META, _meta_file_seeds, hostile_json,
               functools.partial(_read_step_file, checkpoint.META), JSON_WORDS),
        Parser("checkpoint_hashes", checkpoint.HASHES, _hashes_seeds, hostile_json,
               functools.partial(_read_step_file, checkpoint.HASHES), JSON_WORDS),
        Parser("dexycb_yaml", "meta.yml", _yaml_seeds, hostile_yaml, _read_yaml,
               YAML_WORDS),
        Parser("dexycb_labels", "labels.npz", _label_seeds,
               functools.partial(hostile_zips, "pose_m"), _read_labels, ZIP_WORDS),
        Parser("checkpoint", "input", _state_seeds, dict, _read_state, JSON_WORDS),
    )
}  # fmt: skip
