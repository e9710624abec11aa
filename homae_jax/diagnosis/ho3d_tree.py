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
from homae_jax.hand.mano import fingertips_of
from homae_jax.hand.mano_files import load_mano
from homae_jax.objects.ycb import HO3D_UNSEEN

FINGERTIPS_V2 = "ho3d"  # of hand.mano.FINGERTIPS
NUM_SEQUENCES = {"v2": {"train": 55, "evaluation": 13}}  # ArtiBoost's list
PITCHER = ho3d_index.OBJECT_IDS[HO3D_UNSEEN]


def survey(
    root: Path, *, models: Path | None, mano: Path | None, cache_dir: Path
) -> Survey:
    """Looks at every listed frame's files and reads every label.

    Raises:
      UserError: a split's list or folder is not there.
    """
    counts: list[Count] = []
    missing: list[str] = []
    notes: list[str] = []
    left_out: dict[str, dict[str, list[str]]] = {}
    splits = {}
    fingertips = _fingertips(root)
    if fingertips != FINGERTIPS_V2:
        notes.append(
            f'note: finger tips are the vertices named "{fingertips}"; train and '
            f"evaluate with --config.evaluate.fingertips={fingertips}"
        )
    for split in ho3d_files.SPLITS:
        table = ho3d_index.open_index(root, split, cache_dir=cache_dir / "index")
        names = [
            n for n, listed in zip(table.names, table.is_listed, strict=True) if listed
        ]
        version = ho3d_files.version_of(root, split, names)
        counts += _counts(split, names, table, version)
        missing += _missing(root, split, names)
        left_out[split] = _left_out(table)
        notes += _notes(root, split, names)
        splits[split] = _shown(root, split, models, mano, fingertips)
    for name in ("evaluation_xyz.json", "evaluation_verts.json"):
        if not (root / name).is_file():
            notes.append(f"note: {name} is not here; evaluation scores need it")
    if models is None:
        notes.append("note: no models (--models); boxes are drawn, no outlines")
    title = f"HO-3D {version} at {root}"
    return Survey(title, tuple(counts), tuple(missing), left_out, tuple(notes), splits)


def _counts(
    split: str,
    names: list[str],
    table: ho3d_index.Index,
    version: str,
) -> Iterator[Count]:
    published = ho3d_index.PUBLISHED[version][split]
    num_published = NUM_SEQUENCES.get(version, {}).get(split)
    sequences = len({name.split("/")[0] for name in names})
    yield Count(f"{split}: frames listed", len(names), published)
    yield Count(f"{split}: sequences", sequences, num_published)
    is_used = table.is_listed & (table.reason == ho3d_index.USED)
    yield Count(f"{split}: frames usable", int(is_used.sum()), published)
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
            yield f"{place}/seg/{number}.jpg or .png"


def _notes(root: Path, split: str, names: list[str]) -> Iterator[str]:
    if split != ho3d_files.EVALUATION:
        masked, num = ho3d_files.count_masked(root, split, names)
        if masked < num:
            yield (
                f"note: {split} has masks of {masked} of {num} sequences; they are an "
                "archive of their own"
            )
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


def _fingertips(root: Path) -> str:
    """As the published joints and vertices have them; without these, v2's."""
    truth = Ho3dSource(root, ho3d_files.EVALUATION).ground_truth(0)
    if truth is None or truth.vertices is None:
        return FINGERTIPS_V2
    return fingertips_of(truth.joints, truth.vertices) or FINGERTIPS_V2


def _shown(
    root: Path, split: str, models: Path | None, mano: Path | None, fingertips: str
) -> Shown:
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
            frame, model(frame["object_name"]), depth, hand, fingertips=fingertips
        )

    return Shown(source, model, caption)
