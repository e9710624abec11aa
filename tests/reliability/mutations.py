"""Random changes to bytes, of the kinds that break readers."""

import random
import struct
from collections.abc import Callable, Sequence

INTERESTING = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"\xff" * 7 + b"\x7f",
    b"\x00" * 7 + b"\x01", b"\x01" + b"\x00" * 7, b"../", b"/etc/passwd", b"NaN",
    b"1e999", b"-1", b"99999999999999999999", b"[" * 64, b"{}", b"\n", b"\xef\xbb\xbf",
)  # fmt: skip
MAX_CHANGES = 6
MAX_GROWTH = 4096

Change = Callable[[random.Random, bytearray], None]


def mutate(
    draw: random.Random, seed: bytes, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    """A seed after a few random changes.

    Args:
      others: seeds to take pieces of.
      words: tokens of the format.
    """
    data = bytearray(seed)
    for _ in range(draw.randint(1, MAX_CHANGES)):
        if not data:
            break
        kind = draw.random()
        if kind < 0.1:
            _splice(draw, data, draw.choice(others))
        elif kind < 0.25 and words:
            _put(draw, data, draw.choice(words))
        else:
            draw.choice(CHANGES)(draw, data)
    return bytes(data)


def _flip_bit(draw: random.Random, data: bytearray) -> None:
    place = draw.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8


def _set_byte(draw: random.Random, data: bytearray) -> None:
    data[draw.randrange(len(data))] = draw.randrange(256)


def _set_number(draw: random.Random, data: bytearray) -> None:
    """An integer of 2, 4 or 8 bytes, small, large or near the one there."""
    size = draw.choice((2, 4, 8))
    if len(data) < size:
        return
    place = draw.randrange(len(data) - size + 1)
    order = draw.choice("<>")
    code = order + {2: "H", 4: "I", 8: "Q"}[size]
    (old,) = struct.unpack(code, data[place : place + size])
    new = draw.choice((old + 1, old - 1, 2 * old, 2 ** draw.randrange(8 * size), -1))
    data[place : place + size] = struct.pack(code, new % 2 ** (8 * size))


def _put_interesting(draw: random.Random, data: bytearray) -> None:
    _put(draw, data, draw.choice(INTERESTING))


def _put(draw: random.Random, data: bytearray, word: bytes) -> None:
    """In place of what is there, or between."""
    place = draw.randrange(len(data))
    end = place + len(word) if draw.random() < 0.5 else place
    data[place:end] = word


def _cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def _delete(draw: random.Random, data: bytearray) -> None:
    place = draw.randrange(len(data))
    del data[place : place + draw.randint(1, 64)]


def _repeat(draw: random.Random, data: bytearray) -> None:
    place = draw.randrange(len(data))
    piece = data[place : place + draw.randint(1, 64)]
    times = draw.randint(1, MAX_GROWTH // max(len(piece), 1) + 1)
    data[place:place] = piece * times


def _append(draw: random.Random, data: bytearray) -> None:
    data += draw.randbytes(draw.randint(1, 64))


def _splice(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A piece of another seed over a piece of this one."""
    if not other:
        return
    start = draw.randrange(len(other))
    piece = other[start : start + draw.randint(1, 512)]
    place = draw.randrange(len(data))
    data[place : place + len(piece)] = piece


CHANGES: tuple[Change, ...] = (
    _flip_bit, _flip_bit, _set_byte, _set_number, _set_number, _put_interesting, _cut,
    _delete, _repeat, _append,
)  # fmt: skip
