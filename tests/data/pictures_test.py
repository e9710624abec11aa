import struct
import zlib

import cv2
import numpy as np
import pytest

from homae_jax.data import png as png_file
from homae_jax.data.pictures import read_picture
from homae_jax.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def png(rgb):
    return cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def with_chunk(data, name, content):
    """A PNG with one more chunk before its pixels."""
    check = struct.pack(">I", zlib.crc32(name + content))
    chunk = struct.pack(">I", len(content)) + name + content + check
    place = data.index(b"IDAT") - 4
    return data[:place] + chunk + data[place:]


def filtered(rgb, filters):
    """A PNG of these filters by row, by the specification's formulas (section 9.2)."""
    height, width, _ = rgb.shape
    left, above, corner = (np.zeros(rgb.shape, int) for _ in range(3))
    left[:, 1:], above[1:], corner[1:, 1:] = rgb[:, :-1], rgb[:-1], rgb[:-1, :-1]
    estimate = left + above - corner
    nearest = np.argmin(np.abs([estimate - p for p in (left, above, corner)]), axis=0)
    paeth = np.choose(nearest, (left, above, corner))
    guesses = np.stack([0 * left, left, above, (left + above) // 2, paeth])
    rows = rgb - guesses[filters, np.arange(height)]
    rows = np.column_stack([filters, rows.reshape(height, -1)]).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(rows.tobytes())
    half = len(packed) // 2
    data = png_file.SIGNATURE
    chunks = (b"IHDR", header), (b"IDAT", packed[:half]), (b"IDAT", packed[half:])
    for name, content in (*chunks, (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + content))
        data += struct.pack(">I", len(content)) + name + content + check
    return data


def read(tmp_path, data):
    path = tmp_path / "0001.png"
    path.write_bytes(data)
    return read_picture(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: with_chunk(data, b"tRNS", b"\0\1\0\2\0\3"),
        lambda data: with_chunk(data, b"gAMA", struct.pack(">I", 100_000)),
    ],
)
def test_read_picture_gives_the_pixels_of_a_plain_png(tmp_path, change):
    found = read(tmp_path, change(png(RGB)))
    np.testing.assert_array_equal(found, RGB)
    assert found.flags.c_contiguous and found.flags.writeable


@pytest.mark.parametrize("filters", [[0], [1], [2], [0, 1, 2], [3], [4], range(5)])
def test_read_picture_undoes_every_filter_of_png(tmp_path, monkeypatch, filters):
    rng = np.random.default_rng(1)
    data = filtered(RGB, rng.choice(list(filters), len(RGB)))
    if max(filters) <= 2:  # those that are not left to libpng
        monkeypatch.delattr(png_file.imagecodecs, "png_decode")
    np.testing.assert_array_equal(read(tmp_path, data), RGB)


def test_what_opencv_writes_is_not_left_to_libpng(tmp_path, monkeypatch):
    monkeypatch.delattr(png_file.imagecodecs, "png_decode")
    np.testing.assert_array_equal(read(tmp_path, png(RGB)), RGB)


@pytest.mark.parametrize("size", [(0, 0), (40, 0), (0, 30), (40, 31), (41, 30)])
def test_read_picture_refuses_a_plain_png_of_another_size(tmp_path, size):
    data = png(RGB)
    header = b"IHDR" + struct.pack(">II", *size) + data[24:29]
    changed = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    with pytest.raises(UserError, match=r"0001\.png: no readable PNG"):
        read(tmp_path, changed)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 4])
def test_read_picture_makes_rgb_of_other_pngs(tmp_path, depth, channels):
    values = np.full((6, 8, channels), 200, np.uint8).astype(depth)
    values *= 257 if depth == np.uint16 else 1
    found = read(tmp_path, cv2.imencode(".png", values)[1].tobytes())
    np.testing.assert_array_equal(found, np.full((6, 8, 3), 200, np.uint8))


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_read_picture_refuses_a_png_with_a_changed_byte(tmp_path, place):
    data = bytearray(png(RGB))
    data[int(place * len(data))] ^= 1
    with pytest.raises(UserError, match=r"0001\.png: no readable PNG"):
        read(tmp_path, bytes(data))


def test_read_picture_refuses_a_png_without_its_middle(tmp_path):
    data = png(RGB)
    with pytest.raises(UserError, match=r"0001\.png"):
        read(tmp_path, data[: len(data) // 2] + data[-12:])
