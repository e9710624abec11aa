"""A data set's folder against its publication: what is there, missing, left out, drawn.

    python -m homae_jax.doctor data --root=/data/HO3D_v2 --out=report

Works on HO-3D v2, v3 and DexYCB as they were unpacked; nothing is written there. It
prints counts beside the published ones, missing files, and frames left out with the
reasons. Into --out go `missing.txt` and `left_out.csv` with every name, and a picture
`frames_<split>.png` of random frames with their labels: K, joints, boxes, the object's
outline, masks. A frame's caption says how far its labels agree: outline and mask (IoU),
depth, MANO. Exits with 1 where files are missing.
"""

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from homae_jax import command_line, runtime
from homae_jax.data import dexycb_files
from homae_jax.diagnosis import dexycb_tree, ho3d_tree
from homae_jax.diagnosis.survey import Survey
from homae_jax.errors import UserError

SURVEYS = {"ho3d": ho3d_tree.survey, "dexycb": dexycb_tree.survey}
LISTED = 20  # missing files named on the console
EXIT_MISSING = 1


def main(arguments: Sequence[str]) -> int:
    """Prints the report; 1 where files are missing."""
    options = _parse(arguments)
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise UserError(f"--root={root}: no such folder")
    dataset = options.dataset or detect(root)
    survey = SURVEYS[dataset](
        root,
        models=_folder(options.models, root / "models"),
        mano=_folder(options.mano, root / "mano" / "MANO_RIGHT.pkl"),
        cache_dir=runtime.cache_dir(),
    )
    print(format_survey(survey))
    out = Path(options.out).expanduser()
    for path in write_report(out, survey, num=options.frames, seed=options.seed):
        print(f"wrote {path}", flush=True)
    return EXIT_MISSING if survey.missing else 0


def detect(root: Path) -> str:
    """Which data set a folder holds, by its first level."""
    if any((root / subject).is_dir() for subject in dexycb_files.SUBJECTS):
        return "dexycb"
    if any((root / name).exists() for name in ("train.txt", "evaluation.txt")):
        return "ho3d"
    raise UserError(
        f"{root}: neither HO-3D (train.txt) nor DexYCB (20200709-subject-01 ...); "
        "--root is the folder that holds them"
    )


def format_survey(survey: Survey) -> str:
    """The report for a console."""
    width = max(len(count.name) for count in survey.counts)
    lines = [survey.title, f"{'':{width}}  {'found':>9}  {'published':>9}"]
    for name, found, published in survey.counts:
        beside = "" if published is None else f"{published:>9,}"
        mark = "  differs" if published not in (None, found) else ""
        lines.append(f"{name:{width}}  {found:>9,}  {beside:>9}{mark}".rstrip())
    for split, reasons in survey.left_out.items():
        for reason, names in reasons.items():
            lines.append(f"left out of {split}: {len(names):,} ({reason})")
    lines += survey.notes
    lines.append(f"missing files: {len(survey.missing):,}")
    lines += [f"  {name}" for name in survey.missing[:LISTED]]
    if len(survey.missing) > LISTED:
        lines.append(f"  ... and {len(survey.missing) - LISTED:,} more, in missing.txt")
    return "\n".join(lines)


def write_report(out: Path, survey: Survey, *, num: int, seed: int) -> Iterator[Path]:
    """Writes the lists and the pictures; yields their paths."""
    out.mkdir(parents=True, exist_ok=True)
    missing = out / "missing.txt"
    missing.write_text("".join(f"{name}\n" for name in survey.missing))
    yield missing
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "frame", "reason"))
    for split, reasons in survey.left_out.items():
        for reason, names in reasons.items():
            writer.writerows((split, name, reason) for name in names)
    left_out = out / "left_out.csv"
    left_out.write_text(text.getvalue())
    yield left_out
    yield from _write_sheets(out, survey, num=num, seed=seed)


def _write_sheets(out: Path, survey: Survey, *, num: int, seed: int) -> Iterator[Path]:
    from homae_jax.diagnosis import sheet
    from homae_jax.viz.figures import write_png

    for split, shown in survey.splits.items():
        rng = np.random.default_rng(seed)
        total = len(shown.source)
        rows = np.sort(rng.choice(total, min(num, total), replace=False))
        pictures, captions = [], []
        for row in rows.tolist():
            try:
                frame = shown.source[row]
            except UserError as error:
                print(f"not drawn: {error}")
                continue
            model = shown.model(frame["object_name"])
            pictures.append(sheet.draw_frame(frame, model))
            captions.append((shown.source.frame_name(row), shown.caption(row, frame)))
        if not pictures:
            continue
        path = out / f"frames_{split}.png"
        title = f"{survey.title}: {split}, {len(pictures)} of {total} frames"
        write_png(path, sheet.draw_sheet(pictures, captions, title=title))
        yield path


def _folder(chosen: str | None, default: Path) -> Path | None:
    """A chosen path has to be there, a usual one may be."""
    if chosen is None:
        return default if default.exists() else None
    path = Path(chosen).expanduser()
    if not path.exists():
        raise UserError(f"{path}: not found")
    return path


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    prog = "python -m homae_jax.doctor data"
    parser = command_line.Parser(prog=prog, description=__doc__)
    parser.add_argument("--root", help="the data set's folder; must be given")
    parser.add_argument(
        "--dataset", choices=sorted(SURVEYS), help="default: what the folder looks like"
    )
    parser.add_argument(
        "--out",
        default="doctor_data",
        help="folder for lists and pictures; default: ./doctor_data",
    )
    parser.add_argument("--models", help="YCB models; default: ROOT/models")
    parser.add_argument("--mano", help="default: ROOT/mano/MANO_RIGHT.pkl")
    parser.add_argument(
        "--frames", type=int, default=6, help="frames to draw of each split (6)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random frames (0)")
    options = parser.parse_args(arguments)
    parser.require(options, "root")
    return options
