"""Plain PNG, which is what HO-3D v2 consists of, in two thirds of libpng's time.

Three quarters of that time is zlib's. Here libdeflate unpacks, at twice its speed; what
is left are PNG's filters (PNG specification, 3rd edition, section 9). OpenCV writes
every row with the same simple one ("Sub").
"""

import zlib

import imagecodecs
import numpy as np
from jaxtyping import UInt8

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 33  # signature and IHDR
_PLAIN = b"\x08\x02\x00\x00\x00"  # 8 bits of red, green and blue; not interlaced
_SUB, _UP = 1, 2  # the filters "average" and "Paeth" follow


def is_plain(data: bytes) -> bool:
    """Whether this is a PNG of 8 bits each of red, green and blue, row after row."""
    return data.startswith(SIGNATURE) and data[24:29] == _PLAIN


def decode_plain(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decodes what `is_plain`; None where it is damaged."""
    width = int.from_bytes(data[16:20], "big")
    height = int.from_bytes(data[20:24], "big")
    unpacked = _unpacked(data, height * (1 + 3 * width))
    if unpacked is None:  # unusual, or damaged: libpng knows
        return _decode_by_libpng(data)
    rows = np.frombuffer(unpacked, np.uint8).reshape(height, 1 + 3 * width)
    if rows[:, 0].max() > _UP:
        stored = _chunk(b"IDAT", zlib.compress(unpacked, level=0))
        return _decode_by_libpng(data[:_HEADER_BYTES] + stored + _chunk(b"IEND", b""))
    image = rows[:, 1:].reshape(height, width, 3).copy()
    is_sub = rows[:, 0] == _SUB
    if is_sub.any():  # differences to the pixel on the left
        image[is_sub] = imagecodecs.delta_decode(image[is_sub], axis=1)
    for row in np.flatnonzero(rows[:, 0] == _UP):  # to the row above, which is done
        if row:
            image[row] += image[row - 1]
    return image


def _unpacked(data: bytes, num_bytes: int) -> bytes | None:
    """The filtered rows, if they are whole: so many bytes, and zlib's checksum."""
    try:
        unpacked = imagecodecs.deflate_decode(_packed(data), out=num_bytes)
    except (imagecodecs.DeflateError, ValueError, MemoryError):
        return None
    return unpacked if 0 < num_bytes == len(unpacked) else None


def _packed(data: bytes) -> bytes:
    """What the chunks of pixels hold together: one stream of zlib's."""
    parts = []
    place = _HEADER_BYTES
    while place < len(data):
        start = place + 8
        end = start + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : start] == b"IDAT":
            parts.append(data[start:end])
        place = end + 4
    return b"".join(parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + name + content + check


def _decode_by_libpng(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        image = imagecodecs.png_decode(data)
    except (imagecodecs.PngError, ValueError, MemoryError):
        return None
    # A colour that stands for "transparent" comes as a fourth channel.
    return np.ascontiguousarray(image[..., :3]) if image.ndim == 3 else None
