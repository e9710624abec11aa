import struct
import zlib

import cv2
import numpy as np
import pytest

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
