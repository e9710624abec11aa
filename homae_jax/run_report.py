"""What a training run's folder holds, as sections of a page; for `homae_jax.report`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from homae_jax.errors import UserError
from homae_jax.progress import format_seconds

NUM_LISTED = 10  # best, and worst, frames in the list
FRAMES = "_frames.json"
PICTURES = {  # end of a figure's name -> title
    "_predictions": "Predictions",
    "_best": "Best frames",
    "_worst": "Worst frames",
    "_reconstructions": "Reconstructions (HOMAE Fig. 3)",
    "_sdf": "Signed distance",
}
COMPARED_CURVES = {
    "loss": "loss",
    "mje_mm": "hand error on training batches, mm",
    "oce_mm": "object error on training batches, mm",
    "sdf_hand": "signed distance of the hand",
    "rec": "reconstruction",
}
COMPARED_GROUPS = {"by object": "per_object", "by what is visible": "by_occlusion"}


class Run(NamedTuple):
    """What is found in one folder; empty where it has not come to it yet."""

    name: str
    folder: Path
    config: dict[str, Any]  # flat
    records: list[dict[str, Any]]  # of metrics.jsonl
    results: dict[str, dict[str, Any]]  # name of the split -> result
    frames: dict[str, list[dict[str, Any]]]


def read_run(folder: Path) -> Run:
    """Reads what a run has written so far.

    Raises:
      UserError: it has written nothing.
    """
    from homae_jax import assembly
    from homae_jax.viz import curves

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a training run")
    metrics = folder / "metrics.jsonl"
    records = curves.read_metrics(metrics) if metrics.is_file() else []
    results, frames = _read_results(folder)
    config: dict[str, Any] = {}
    try:
        stored = assembly.open_run(folder).config.to_dict()
        config = dict(_flat(stored))
    except UserError:
        if not records and not results:
            raise
    return Run(folder.resolve().name, folder, config, records, results, frames)


def _read_results(folder: Path) -> tuple[dict[str, dict], dict[str, list]]:
    import json

    from homae_jax.evaluation import report

    results, frames = {}, {}
    for path in sorted((folder / "eval").glob("*.json")):
        if path.name.endswith(FRAMES):
            try:
                frames[path.name.removesuffix(FRAMES)] = json.loads(path.read_text())[
                    "frames"
                ]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: cannot be read; evaluate again") from error
        else:
            results[path.stem] = report.read_result(path)
    return results, frames


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def named(runs: list[Run]) -> list[Run]:
    """Runs whose names differ: a folder's parent joins where they would not."""
    names = [run.name for run in runs]
    return [
        run
        if names.count(run.name) == 1
        else run._replace(name=f"{run.folder.resolve().parent.name}/{run.name}")
        for run in runs
    ]


def run_section(run: Run) -> Any:
    """Curves, tables, frames, pictures and settings of one run."""
    from homae_jax import model_card
    from homae_jax.evaluation import tables
    from homae_jax.scoring import CURVES
    from homae_jax.viz import curves
    from homae_jax.viz.run_page import Block, Section

    blocks = [Block("About", ("what", "value"), _facts(run))]
    if run.records:
        picture = curves.training_curves(run.records, CURVES)
        blocks.append(Block("Curves", picture=picture))
    for name, result in run.results.items():
        blocks += map(_block, tables.result_tables(result))
        if name in run.frames:
            blocks += _frame_lists(run.frames[name])
    blocks += map(_block, model_card.cost_of_prediction(run.results))
    blocks += _pictures(run)
    if not run.results:
        command = f"python -m homae_jax.evaluate --workdir={run.folder}"
        blocks.append(Block("Results", notes=(f"none yet: {command}",)))
    rows = [(key, str(value)) for key, value in run.config.items()]
    if rows:
        blocks.append(Block("Settings", ("key", "value"), rows, is_folded=True))
    return Section(run.name, blocks)


def _facts(run: Run) -> list[tuple[str, str]]:
    from homae_jax.model_card import training_seconds

    facts = [("folder", run.folder.name)]
    for key in (
        "name",
        "data.dataset",
        "model.encoder.variant",
        "train.batch_size",
        "seed",
    ):
        if key in run.config:
            facts.append((key, str(run.config[key])))
    if run.records:
        last = run.records[-1]
        facts.append(("last logged step", str(last.get("step"))))
        seconds = training_seconds(run.records)
        if seconds:
            facts.append(("time of the logged steps", format_seconds(seconds)))
        speeds = [
            r["images_per_second"] for r in run.records if "images_per_second" in r
        ]
        if speeds:
            facts.append(("images per second, median", f"{np.median(speeds):.1f}"))
    for name, result in run.results.items():
        facts.append((f"samples of {name}", str(result["num_samples"])))
    return facts


def _block(table: Any, marked: Sequence[tuple[int, int]] = ()) -> Any:
    """A table as a part of the page."""
    from homae_jax.evaluation.rendering import texts
    from homae_jax.viz.run_page import Block

    return Block(table.title, table.header, texts(table), table.notes, marked=marked)


def _pictures(run: Run) -> list[Any]:
    """The figures of every evaluation, named by it where there are several."""
    from homae_jax.viz.run_page import Block

    blocks = []
    for ending, title in PICTURES.items():
        for path in sorted((run.folder / "figures").glob(f"*{ending}.png")):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            split = path.stem.removesuffix(ending)
            if picture is not None:
                full = f"{title}, {split}" if len(run.results) > 1 else title
                blocks.append(Block(full, picture=picture))
    return blocks


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _frame_lists(frames: Sequence[Mapping[str, Any]]) -> list[Any]:
    from homae_jax.evaluation import report
    from homae_jax.viz.run_page import Block

    keys = [key for key in (frames[0] if frames else {}) if key != "row"]

    ranked = sorted(frames, key=report.frame_error)
    lists = {"Best frames": ranked, "Worst frames": ranked[::-1]}
    return [
        Block(
            f"{title}, by hand and object error",
            keys,
            [[_cell(frame[key]) for key in keys] for frame in order[:NUM_LISTED]],
            is_folded=True,
        )
        for title, order in lists.items()
        if frames
    ]


def comparison(runs: Sequence[Run]) -> list[Any]:
    """What several runs have set otherwise, and what came out; [] for one run."""
    from homae_jax.viz.run_page import Block, Section

    if len(runs) < 2:
        return []
    names = [run.name for run in runs]
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = [
        [key, *values]
        for key in keys
        if len(set(values := [str(run.config.get(key, "–")) for run in runs])) > 1
    ]
    notes = () if rows else ("nothing",)
    blocks = [Block("Set differently", ("key", *names), rows, notes)]
    splits = dict.fromkeys(split for run in runs for split in run.results)
    for split in splits:
        results = {r.name: r.results[split] for r in runs if split in r.results}
        if len(results) > 1:
            blocks += _compared(results, split)
    picture = _curves_together(runs)
    if picture is not None:
        blocks.append(Block("Curves", picture=picture))
    return [Section("Comparison", blocks)]


def _compared(results: Mapping[str, Mapping[str, Any]], split: str) -> list[Any]:
    """Runs under each other on one split: all of it, its objects, what is visible."""
    from homae_jax.evaluation import tables

    title, columns = f"Results on {split}, mm", tables.BOTH_PROTOCOLS
    table = tables.runs_table(results, columns, title)
    protocols = {name: _inputs(result) for name, result in results.items()}
    notes = [f"{name}: {words}" for name, words in protocols.items()]
    if len(set(protocols.values())) == 1:
        notes = [f"{next(iter(protocols.values()))}; bold: the smallest error"]
    table = table._replace(notes=(*notes, *table.notes))
    blocks = [_block(table, _smallest(table.rows, len(columns)))]
    for words, key in COMPARED_GROUPS.items():
        for part in ("hand", "object"):
            blocks += _compared_groups(results, key, part, f"{split} {words}")
    return blocks


def _inputs(result: Mapping[str, Any]) -> str:
    """What was given and what predicted, and at which step, in a line."""
    protocol = result["protocol"]
    given = [f"{k}={v}" for k, v in protocol.items() if v in ("gt", "predicted")]
    if "step" in protocol:
        given.append(f"step {protocol['step']}")
    return ", ".join([f"protocol {protocol['name']}", *given])


def _smallest(rows: Sequence[Sequence[Any]], num_columns: int) -> list[tuple[int, int]]:
    """Row and column of the best of each column of errors; none where all are alike."""
    marked = []
    for column in range(1, num_columns + 1):
        known = {
            r: row[column] for r, row in enumerate(rows) if row[column] is not None
        }
        if len(set(known.values())) > 1:
            marked.append((min(known, key=known.get), column))
    return marked


def _compared_groups(
    results: Mapping[str, Mapping[str, Any]], key: str, part: str, title: str
) -> list[Any]:
    """Errors of a part, a column for each run and a row for each group of frames."""
    from homae_jax.viz.run_page import Block

    metric, name = {"hand": ("mje_mm", "MJE"), "object": ("add_s_mm", "ADD-S")}[part]
    columns = {run: _groups(result, key, part) for run, result in results.items()}
    found = dict.fromkeys(group for groups in columns.values() for group in groups)
    rows = [
        [group, *(_mean(groups.get(group), metric) for groups in columns.values())]
        for group in found
    ]
    if not rows:
        return []
    counts = [
        max(groups.get(group, {}).get("num_samples", 0) for groups in columns.values())
        for group in found
    ]
    cells = [
        [row[0], *map(_cell, row[1:]), str(count)]
        for row, count in zip(rows, counts, strict=True)
    ]
    header = (part, *columns, "n")
    marked = [
        (i, 1 + min(range(len(row) - 1), key=lambda j: row[1 + j]))
        for i, row in enumerate(rows)
        if None not in row and len(set(row[1:])) > 1
    ]
    return [Block(f"{name} on {title}, mm", header, cells, marked=marked)]


def _groups(result: Mapping[str, Any], key: str, part: str) -> Mapping[str, Any]:
    """Groups of frames by name; those by what is visible with their bounds."""
    groups = result.get(key, {})
    if key != "by_occlusion":
        return groups
    return {
        f"{name} ({100 * g['visible_from']:.0f}-{100 * g['visible_below']:.0f} %)": g
        for name, g in groups.get(part, {}).items()
    }


def _mean(group: Mapping[str, Any] | None, metric: str) -> float | None:
    return (group or {}).get("metrics", {}).get(metric)


def _curves_together(runs: Sequence[Run]) -> np.ndarray | None:
    """The runs' curves over each other, a panel for each value that two have."""
    from homae_jax.viz import curves

    panels = []
    for key, title in COMPARED_CURVES.items():
        lines = []
        for run in runs:
            known = [r for r in run.records if r.get(key) is not None and "step" in r]
            if known:
                x, y = (np.array([float(r[k]) for r in known]) for k in ("step", key))
                lines.append(curves.Curve(run.name, x, y))
        if len(lines) > 1:
            panels.append(curves.plot(lines, title=title, width=460, height=280))
    if not panels:
        return None
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    blank = np.full_like(panels[0], 255)
    return np.concatenate(
        [np.concatenate([*row, blank][:2], axis=1) for row in rows], axis=0
    )
