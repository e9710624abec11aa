"""Pictures from files, whole or not at all: PNG and JPEG.

Decoders fill the missing part of a truncated file with grey and go on; here the file's
end is looked for first. They also believe what a header says of the size, and make room
for it: here that is read first.
"""

import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from homae_jax.data import png
from homae_jax.errors import UserError
from homae_jax.schema import BACKGROUND, HAND, OBJECT

# JPEG smears the masks' pure colours over a few pixels: half way up keeps the area
# to 1 %, HOISDF's 200 loses 6 to 8 % of it at HO-3D's 160x120.
MASK_THRESHOLD = 128
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 2**25
MAX_SCANS = 100  # of a progressive JPEG: each goes over the whole picture
TAIL_BYTES = 1024  # some writers leave a little behind the end mark
_JPEG = b"\xff\xd8"
_END_MARKS = ((_JPEG, b"\xff\xd9"), (png.SIGNATURE, b"IEND"))
_SCAN = b"\xff\xda"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # segments with the size


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a PNG or JPEG file to RGB.

    Raises:
      FileNotFoundError: there is no such file; the caller knows what that means.
      UserError: truncated, too large, or no picture.
    """
    try:
        with path.open("rb") as file:
            # Asked for as much as a file may hold, Python would make room for it.
            data = file.read(min(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES) + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    for start, end in _END_MARKS:
        if data.startswith(start) and end not in data[-TAIL_BYTES:]:
            raise UserError(f"{path}: truncated at {len(data)} bytes; copy it again")
    width, height = _size(data)
    num_scans = data.count(_SCAN) if data.startswith(_JPEG) else 1
    if width * height > MAX_PIXELS or num_scans > MAX_SCANS:
        raise UserError(f"{path}: a picture of {width} x {height} is too large")
    image = _decode(data) if width and len(data) <= MAX_FILE_BYTES else None
    if image is None:
        raise UserError(f"{path}: no readable PNG or JPEG ({len(data)} bytes)")
    return image


def _decode(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """RGB, or None."""
    if png.is_plain(data):
        return png.decode_plain(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height by the header; (0, 0) where there is none."""
    if data.startswith(png.SIGNATURE) and data[12:16] == b"IHDR" and len(data) > 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if not data.startswith(_JPEG):
        return 0, 0
    # A file may state its size more than once; decoders may take any of them.
    sizes = [(0, 0)]
    place = len(_JPEG)
    while place + 9 < len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind in (0x01, 0xFF, *range(0xD0, 0xD9)):  # fillers, without a length
            place += 1 if kind == 0xFF else 2
            continue
        if kind in _FRAMES:
            height = int.from_bytes(data[place + 5 : place + 7], "big")
            width = int.from_bytes(data[place + 7 : place + 9], "big")
            sizes.append((width, height))
        if data[place : place + 2] == _SCAN:
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return max(sizes)


def labels_from_colours(
    picture: UInt8[np.ndarray, "h w 3"], *, hand: int, obj: int
) -> UInt8[np.ndarray, "h w"]:
    """HO-3D's rendered masks -> schema labels.

    Args:
      hand: the channel in which the hand is bright; `obj`: the object's.
    """
    labels = np.full(picture.shape[:2], BACKGROUND, np.uint8)
    on_hand, on_object = picture[..., hand], picture[..., obj]
    labels[on_hand > MASK_THRESHOLD] = HAND
    labels[(on_object > MASK_THRESHOLD) & (on_object > on_hand)] = OBJECT
    return labels
