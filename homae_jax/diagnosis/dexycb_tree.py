"""DexYCB's folder: subjects, sequences, cameras, calibration, labels, every filter."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from homae_jax.data import dexycb, dexycb_files, dexycb_index
from homae_jax.data.dexycb_files import SERIALS, SUBJECTS, Sequence
from homae_jax.data.source import Frame
from homae_jax.diagnosis import agreement
from homae_jax.diagnosis.survey import Count, Shown, Survey
from homae_jax.errors import UserError
from homae_jax.hand.mano import ManoModel
from homae_jax.hand.mano_files import left_beside, load_mano
from homae_jax.objects.ycb import YCB_NAMES

SPLITS = ("s0_train", "s0_val", "s0_test")  # together, every frame once
PUBLISHED_SEQUENCES = {"s0_train": 800, "s0_val": 40, "s0_test": 160}
DRAWN = ("s0_train", "s0_test")
NO_BASIS = dexycb.HandBasis(np.eye(45), np.zeros(45))


def survey(
    root: Path, *, models: Path | None, mano: Path | None, cache_dir: Path
) -> Survey:
    """Looks for every file and reads every label.

    Raises:
      UserError: no subject is there, or a meta.yml is unusable.
    """
    sequences = tuple(_sequences(root))
    subjects = {sequence.subject for sequence in sequences}
    counts = [
        Count("subjects", len(subjects), len(SUBJECTS)),
        Count("sequences", len(sequences), 1000),
        Count("sequences of right hands", _num_right(sequences), 501),
    ]
    left_out, splits = {}, {}
    hands = _hands(mano)
    for split in SPLITS:
        try:
            found, reasons = _split(root, split, models, cache_dir)
        except UserError as error:
            counts.append(Count(f"{split}: {error}", 0))
            continue
        counts += found
        left_out[split] = reasons
        if split in DRAWN:
            shown = _shown(root, split, models, hands, cache_dir)
            splits |= {} if shown is None else {split: shown}
    missing = tuple(_missing(root, sequences, models))
    notes = tuple(_notes(root, sequences, models, mano))
    title = f"DexYCB at {root}"
    return Survey(title, tuple(counts), missing, left_out, notes, splits)


def _sequences(root: Path) -> Iterator[Sequence]:
    for subject in SUBJECTS:
        for name in dexycb_files.sequence_names(root, subject):
            if (root / subject / name / "meta.yml").is_file():
                yield dexycb_files.read_sequence(root, subject, name)


def _num_right(sequences: tuple[Sequence, ...]) -> int:
    return sum(sequence.side == "right" for sequence in sequences)


def _split(
    root: Path, split: str, models: Path | None, cache_dir: Path
) -> tuple[list[Count], dict[str, list[str]]]:
    """Counts before and after every filter; frames that no filter takes."""
    folder = cache_dir / "index"
    table = dexycb_index.open_index(root, split, cache_dir=folder)
    published = dexycb.PUBLISHED_FRAMES.get(split)
    num = len(table.sequences)
    counts = [
        Count(f"{split}: sequences", num, PUBLISHED_SEQUENCES[split]),
        Count(f"{split}: frames", len(table.reason), published),
    ]
    contacts = None
    if models is not None:
        contacts = dexycb.find_contacts(
            root, split, table, models=models, cache_dir=folder
        )
    is_left = np.array([s.side == "left" for s in table.sequences])
    for name, wanted in dexycb.FILTERS.items():
        if wanted.has_nearest and contacts is None:
            continue
        reason, _ = dexycb.apply_filter(table, is_left, wanted, contacts)
        used = int((reason == dexycb_index.USED).sum())
        published = dict(wanted.published).get(split)
        counts.append(Count(f'{split}: filter "{name}"', used, published))
    found: dict[str, list[str]] = {}
    for row in np.flatnonzero(table.reason != dexycb_index.USED):
        reason = dexycb_index.REASONS[table.reason[row]]
        place = table.sequences[table.sequence[row]].path
        serial, number = SERIALS[table.camera[row]], table.frame[row]
        found.setdefault(reason, []).append(f"{place}/{serial}/{number:06d}")
    return counts, found


def _missing(
    root: Path, sequences: tuple[Sequence, ...], models: Path | None
) -> Iterator[str]:
    """A folder that is not there is named once, without its files."""
    for subject in SUBJECTS:
        if not (root / subject).is_dir():
            yield f"{subject}/"
    for subject in SUBJECTS:
        for name in dexycb_files.sequence_names(root, subject):
            if not (root / subject / name / "meta.yml").is_file():
                yield f"{subject}/{name}/meta.yml"
    for sequence in sequences:
        yield from _missing_frames(root, sequence)
    wanted = {f"intrinsics/{serial}_640x480.yml" for serial in SERIALS}
    wanted |= {f"mano_{sequence.calibration}/mano.yml" for sequence in sequences}
    for name in sorted(wanted):
        if not (root / "calibration" / name).is_file():
            yield f"calibration/{name}"
    grasped = {YCB_NAMES.get(s.ycb_ids[s.grasped]) for s in sequences} - {None}
    for name in sorted(grasped) if models is not None else ():
        if not (models / name / "textured_simple.obj").is_file():
            yield f"{models.name}/{name}/textured_simple.obj"


def _missing_frames(root: Path, sequence: Sequence) -> Iterator[str]:
    for serial in SERIALS if sequence.num_frames else ():
        place = f"{sequence.path}/{serial}"
        if not (root / place).is_dir():
            yield f"{place}/"
            continue
        there = set(os.listdir(root / place))
        for number in range(sequence.num_frames):
            for name in (f"color_{number:06d}.jpg", f"labels_{number:06d}.npz"):
                if name not in there:
                    yield f"{place}/{name}"


def _notes(
    root: Path,
    sequences: tuple[Sequence, ...],
    models: Path | None,
    mano: Path | None,
) -> Iterator[str]:
    if note := dexycb_files.split_note(root):
        yield note
    without = sum(not (root / s.path / "pose.npz").is_file() for s in sequences)
    if without:
        yield f"note: {without} sequences have no pose.npz; it is not read"
    if models is None:
        yield "note: no models (--models): no outlines, no filters by distance"
    if mano is None:
        yield "note: no MANO (--mano): its joints are not compared with the labels"


def _hands(mano: Path | None) -> dict[str, ManoModel]:
    if mano is None:
        return {}
    left = left_beside(mano)
    hands = {"right": load_mano(mano)}
    if left:
        hands["left"] = load_mano(left, side="left")
    return hands


def _shown(
    root: Path,
    split: str,
    models: Path | None,
    hands: dict[str, ManoModel],
    cache_dir: Path,
) -> Shown | None:
    bases = {
        side: dexycb.HandBasis(
            np.asarray(hand.hand_components, np.float64),
            np.asarray(hand.hand_mean, np.float64),
        )
        for side, hand in hands.items()
    }
    try:
        source = dexycb.DexYcbSource(
            root,
            split,
            right=bases.get("right", NO_BASIS),
            left=bases.get("left", NO_BASIS),
            left_hands="keep",
            models=models,
            cache_dir=cache_dir / "index",
        )
    except UserError:
        return None  # nothing of it is annotated

    @functools.cache
    def model(name: str) -> agreement.Model | None:
        return agreement.load_model(models / name) if models else None

    def caption(row: int, frame: Frame) -> str:
        folder, _, number = source.frame_name(row).rpartition("/")
        side = source.side(row)
        path = root / folder / f"aligned_depth_to_color_{number}.png"
        text = agreement.caption(
            frame,
            model(frame["object_name"]),
            agreement.read_dexycb_depth(path),
            hands.get(side),
            fingertips={"right": "manopth", "left": "manopth_left"}[side],
        )
        return f"{side}   {text}"

    return Shown(source, model, caption)
