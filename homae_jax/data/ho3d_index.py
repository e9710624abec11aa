"""What there is of every frame of an HO-3D split, listed or not.

A frame is listed where `<split>.txt` names it: those are the split. Folders hold more:
frames without annotation (every label None) and frames that the list leaves out.
Pictures are looked for, not opened; label files are read whole.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from homae_jax.data import ho3d_files, index
from homae_jax.errors import UserError
from homae_jax.objects.ycb import YCB_NAMES

# The first that applies.
REASONS = (
    "",
    "label file missing",
    "not annotated",
    "label file damaged or incomplete",
    "picture missing",
    "mask missing",
    "not in the list",
)
USED, NO_LABEL, BLANK, DAMAGED, NO_PICTURE, NO_MASK, NOT_LISTED = range(7)
PUBLISHED = {  # frames listed
    "v2": {"train": 66_034, "evaluation": 11_524},
    "v3": {"train": 83_325, "evaluation": 20_137},
}
OBJECT_IDS = {name: number for number, name in YCB_NAMES.items()}


class Index(NamedTuple):
    """The listed frames in the list's order, then the others by name."""

    names: tuple[str, ...]  # "<sequence>/<number>"
    is_listed: Bool[np.ndarray, " n"]
    reason: Int[np.ndarray, " n"]  # row of REASONS
    object_id: Int[np.ndarray, " n"]  # YCB's; 0: not known


def open_index(
    root: Path, split: str, *, cache_dir: Path, workers: int | None = None
) -> Index:
    """The index of a split: the kept one where it still fits, else a new one."""
    names = ho3d_files.read_list(root, split)
    listed: dict[str, list[str]] = {}
    for name in names:
        sequence, number = name.split("/")
        listed.setdefault(sequence, []).append(number)
    for entry in sorted(os.scandir(root / split), key=lambda entry: entry.name):
        if entry.is_dir():
            listed.setdefault(entry.name, [])
    jobs = []
    digest = index.Digest("ho3d", split, names)
    for sequence, numbers in listed.items():
        files = _files(root / split / sequence)
        digest.add(sequence, files)
        digest.add_files(root / split / sequence / "meta", files["meta"])
        jobs.append((str(root), split, sequence, tuple(numbers), files))

    def build() -> index.Columns:
        parts = index.run(
            _scan,
            jobs,
            num_frames=len(names),
            workers=workers,
            desc=f"index of {split}",
        )
        found = {name: row for part in parts for name, row in part.items()}
        order = [*dict.fromkeys(names), *sorted(found.keys() - set(names))]
        rows = np.array([found[name] for name in order], np.int8)
        is_listed = np.isin(order, names)
        columns = {"names": np.array(order), "is_listed": is_listed}
        return columns | {"reason": rows[:, 0], "object_id": rows[:, 1]}

    columns = index.kept(cache_dir, f"ho3d_{split}", digest, build)
    return Index(tuple(columns.pop("names").tolist()), **columns)


def excluded(table: Index) -> dict[str, int]:
    """Frames in the folders that are not of the split, by reason."""
    counts = np.bincount(table.reason[~table.is_listed], minlength=len(REASONS))
    return {REASONS[i]: int(n) for i, n in enumerate(counts) if n}


def unusable(table: Index) -> dict[str, str]:
    """Listed frames that cannot be read, with the reason."""
    rows = np.flatnonzero(table.is_listed & (table.reason != USED))
    return {table.names[row]: REASONS[table.reason[row]] for row in rows}


def _files(folder: Path) -> dict[str, list[str]]:
    """Names by kind; a kind whose folder is not there is left out."""
    kinds = ("rgb", "meta", "seg")
    return {"meta": []} | {
        kind: sorted(os.listdir(folder / kind))
        for kind in kinds
        if (folder / kind).is_dir()
    }


def _scan(
    root: str,
    split: str,
    sequence: str,
    listed: tuple[str, ...],
    files: Mapping[str, list[str]],
) -> dict[str, tuple[int, int]]:
    """Reason and object of every frame of a sequence, by name."""
    folder = Path(root) / split / sequence
    labelled = {name.removesuffix(".pkl") for name in files["meta"]}
    pictures = {name.rpartition(".")[0] for name in files.get("rgb", ())}
    masks = (
        {name.rpartition(".")[0] for name in files["seg"]} if "seg" in files else None
    )
    found = {}
    for number in sorted({*listed, *labelled}):
        reason, object_id = NO_LABEL, 0
        if number in labelled:
            path = folder / "meta" / f"{number}.pkl"
            reason, object_id = _read(path, split)
        if reason == USED and number not in pictures:
            reason = NO_PICTURE
        if reason == USED and masks is not None and number not in masks:
            reason = NO_MASK
        if reason == USED and number not in listed:
            reason = NOT_LISTED
        found[f"{sequence}/{number}"] = reason, object_id
    return found


def _read(path: Path, split: str) -> tuple[int, int]:
    try:
        meta = ho3d_files.read_meta(path)
        if ho3d_files.is_blank(meta):
            return BLANK, 0
        labels = ho3d_files.labels_of(meta, split, path)
    except UserError:
        return DAMAGED, 0
    return USED, OBJECT_IDS.get(labels["object_name"], 0)
