"""The committed chumpy pickles of toy hands, unpacked.

tests/hand/data/make_chumpy_hand.py says how they were made. Nothing here changes with
the procedural hand: references of other implementations refer to these files.
"""

import lzma
from pathlib import Path

DATA = Path(__file__).parent / "data"
SIDES = ("right", "left")


def unpack_hand(side: str, folder: str | Path) -> Path:
    """Writes MANO_RIGHT.pkl or MANO_LEFT.pkl into a folder, as Python 2 wrote it."""
    name = f"MANO_{side.upper()}.pkl"
    path = Path(folder) / name
    path.write_bytes(lzma.decompress((DATA / f"{name}.xz").read_bytes()))
    return path
