"""HO-3D's folder, v2 or v3: lists, sequences, files, labels."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from homae_jax.data import ho3d_files, ho3d_index
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.data.source import Frame
from homae_jax.diagnosis import agreement
from homae_jax.diagnosis.survey import Count, Shown, Survey
from homae_jax.hand.mano_files import load_mano
from homae_jax.objects.ycb import HO3D_UNSEEN

# Frames and sequences of train and evaluation; v2's list of sequences is ArtiBoost's.
PUBLISHED = {
    "v2": {
        split: (num, sequences)
        for (split, num), sequences in zip(
            ho3d_index.PUBLISHED_V2.items(), (55, 13), strict=True
        )
    },
    "v3": {"train": (83_325, None), "evaluation": (20_137, None)},
}
PITCHER = ho3d_index.OBJECT_IDS[HO3D_UNSEEN]


def survey(
    root: Path, *, models: Path | None, mano: Path | None, cache_dir: Path
) -> Survey:
    """Looks at every listed frame's files and reads every label.

    Raises:
      UserError: a split's list or folder is not there.
    """
    version = _version(root)
    counts: list[Count] = []
    missing: list[str] = []
    notes: list[str] = []
    left_out: dict[str, dict[str, list[str]]] = {}
    splits = {}
    for split in ho3d_files.SPLITS:
        table = ho3d_index.open_index(root, split, cache_dir=cache_dir / "index")
        names = [
            n for n, listed in zip(table.names, table.is_listed, strict=True) if listed
        ]
        counts += _counts(split, names, table, PUBLISHED[version][split])
        missing += _missing(root, split, names)
        left_out[split] = _left_out(table)
        notes += _notes(root, split, names)
        splits[split] = _shown(root, split, models, mano)
    for name in ("evaluation_xyz.json", "evaluation_verts.json"):
        if not (root / name).is_file():
            notes.append(f"note: {name} is not here; evaluation scores need it")
    if models is None:
        notes.append("note: no models (--models); boxes are drawn, no outlines")
    title = f"HO-3D {version} at {root}"
    return Survey(title, tuple(counts), tuple(missing), left_out, tuple(notes), splits)


def _version(root: Path) -> str:
    """By the pictures' format: v3 has JPEG."""
    for split in ho3d_files.SPLITS:
        for folder in sorted((root / split).glob("*/rgb")):
            suffixes = {os.path.splitext(name)[1] for name in os.listdir(folder)}
            if suffixes:
                return "v3" if ".jpg" in suffixes else "v2"
    return "v2"


def _counts(
    split: str,
    names: list[str],
    table: ho3d_index.Index,
    published: tuple[int | None, int | None],
) -> Iterator[Count]:
    sequences = len({name.split("/")[0] for name in names})
    yield Count(f"{split}: frames listed", len(names), published[0])
    yield Count(f"{split}: sequences", sequences, published[1])
    is_used = table.is_listed & (table.reason == ho3d_index.USED)
    yield Count(f"{split}: frames usable", int(is_used.sum()), published[0])
    if split == ho3d_files.EVALUATION:
        seen = int((is_used & (table.object_id != PITCHER)).sum())
        yield Count(f"{split}: without the pitcher (object metrics)", seen)


def _missing(root: Path, split: str, names: list[str]) -> Iterator[str]:
    """Files of listed frames that are not there; a mask only where others are."""
    files = functools.cache(lambda folder: _stems(root / split / folder))
    has_masks = any((root / split).glob("*/seg"))
    for name in names:
        sequence, number = name.split("/")
        place = f"{split}/{sequence}"
        if number not in files(f"{sequence}/rgb"):
            yield f"{place}/rgb/{number}.png or .jpg"
        if number not in files(f"{sequence}/meta"):
            yield f"{place}/meta/{number}.pkl"
        if has_masks and number not in files(f"{sequence}/seg"):
            yield f"{place}/seg/{number}.jpg"


def _notes(root: Path, split: str, names: list[str]) -> Iterator[str]:
    if split != ho3d_files.EVALUATION and not any((root / split).glob("*/seg")):
        yield f"note: no masks in {split}; they are an archive of their own"
    files = functools.cache(lambda folder: _stems(root / split / folder))
    parts = (name.split("/") for name in names)
    without = sum(number not in files(f"{seq}/depth") for seq, number in parts)
    if without:
        yield f"note: {without:,} frames of {split} have no depth; it is not read"


def _stems(folder: Path) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    return frozenset(os.path.splitext(name)[0] for name in os.listdir(folder))


def _left_out(table: ho3d_index.Index) -> dict[str, list[str]]:
    """Frames in the folders that are not used, and listed ones that cannot be."""
    found: dict[str, list[str]] = {}
    for row in np.flatnonzero(table.reason != ho3d_index.USED):
        reason = ho3d_index.REASONS[table.reason[row]]
        if table.is_listed[row]:
            reason = f"listed, but {reason}"
        found.setdefault(reason, []).append(table.names[row])
    return found


def _shown(root: Path, split: str, models: Path | None, mano: Path | None) -> Shown:
    source = Ho3dSource(root, split)
    hand = load_mano(mano) if mano else None

    @functools.cache
    def model(name: str) -> agreement.Model | None:
        return agreement.load_model(models / name) if models else None

    def caption(row: int, frame: Frame) -> str:
        sequence, number = source.frame_name(row).split("/")
        path = root / split / sequence / "depth" / f"{number}.png"
        depth = agreement.read_ho3d_depth(path)
        return agreement.caption(
            frame, model(frame["object_name"]), depth, hand, fingertips="ho3d"
        )

    return Shown(source, model, caption)
