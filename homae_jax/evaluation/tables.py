"""Results as text: the paper's tables with its rows beside ours, and our own.

rendering.py writes them for a console, as Markdown, LaTeX or JSON. Lengths are
millimetres and shares percent, as in the paper; n is the number of samples.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from homae_jax.evaluation.rendering import Cell, Format, Table, as_dict, fixed, render
from homae_jax.evaluation.report import HAND_UNITS, OBJECT_UNITS, Result
from homae_jax.whole_file import replacing


class Column(NamedTuple):
    """A metric as the paper prints it."""

    name: str
    key: str
    decimals: int = 1
    factor: float = 1.0
    is_error: bool = True  # and so has a ratio to the trivial predictor's


def _percent(name: str, key: str) -> Column:
    return Column(name, key, 1, 100.0, is_error=False)


TABLE_1 = (
    Column("MJE", "mje_mm"),
    Column("PA-MJE", "pa_mje_mm", 2),
    Column("OCE", "oce_mm"),
    Column("MCE", "mce_mm"),
    Column("ADD-S", "add_s_mm"),
)
TABLE_2 = (
    _percent("PA-J-AUC", "pa_j_auc"),
    Column("PA-V-PE", "pa_v_pe_mm"),
    _percent("PA-V-AUC", "pa_v_auc"),
    _percent("PA-F@5", "pa_f_5"),
    _percent("PA-F@15", "pa_f_15"),
    _percent("J-AUC", "j_auc"),
    Column("V-PE", "v_pe_mm"),
    _percent("V-AUC", "v_auc"),
    _percent("F@5", "f_5"),
    _percent("F@15", "f_15"),
)
TABLE_3 = (
    Column("MJE", "mje_mm"),
    Column("ST-MJE", "st_mje_mm"),
    Column("PA-MJE", "pa_mje_mm"),
    Column("OME", "ome_mm"),
    Column("ADD-S", "add_s_mm"),
)
PER_OBJECT = TABLE_3[3:]  # averaged over HO-3D's objects: so are the published rows

SUFFIXES: dict[Format, str] = {
    "console": ".txt",
    "markdown": ".md",
    "latex": ".tex",
    "json": ".json",
}

# Published rows (HOMAE Tables I-IV); H2ONet stands in where HOISDF reports nothing.
PAPER = "HOMAE (paper)"
PUBLISHED_1 = {
    "HOISDF": (10.1, 5.31, 18.4, 27.4, 13.3),
    PAPER: (10.6, 5.08, 17.1, 25.2, 11.8),
}
PUBLISHED_2 = {
    "H2ONet": (88.9, 5.5, 89.1, 80.1, 99.0, 74.6, 13.0, 76.2, 51.3, 92.1),
    PAPER: (89.8, 4.9, 90.0, 81.7, 98.9, 79.7, 10.5, 79.9, 59.7, 94.4),
}
PUBLISHED_3 = {
    "HOISDF": (23.6, 22.8, 9.6, 48.5, 17.8),
    PAPER: (21.8, 20.5, 9.8, 39.3, 14.2),
}
PUBLISHED_4 = {  # OME of HOISDF, HOMAE; ADD-S of HOISDF, HOMAE
    "006_mustard_bottle": (52.1, 42.3, 13.1, 11.2),
    "010_potted_meat_can": (51.8, 41.8, 18.2, 13.9),
    "021_bleach_cleanser": (41.6, 33.8, 22.2, 17.6),
    "mean": (48.5, 39.3, 17.8, 14.2),
}

OVERVIEW = (
    Column("hand  MJE, mm", "mje_mm"),
    Column("hand  MJE, wrist on wrist, mm", "mje_root_mm"),
    Column("hand  ST-MJE, mm", "st_mje_mm"),
    Column("hand  PA-MJE, mm", "pa_mje_mm"),
    _percent("hand  J-AUC, %", "j_auc"),
    _percent("hand  PA-J-AUC, %", "pa_j_auc"),
    Column("hand  mesh V-PE, mm", "v_pe_mm"),
    Column("hand  mesh PA-V-PE, mm", "pa_v_pe_mm"),
    _percent("hand  mesh F@5, %", "f_5"),
    _percent("hand  mesh F@15, %", "f_15"),
    Column("object  OCE, mm", "oce_mm"),
    Column("object  MCE, mm", "mce_mm"),
    Column("object  OME, mm", "ome_mm"),
    Column("object  ADD-S, mm", "add_s_mm"),
    Column("object  rotation, deg", "object_rotation_deg"),
    Column("image  masked pixels, MSE", "rec_masked_mse", 4),
    _percent("SDF  right sign, hand, %", "sdf_sign_hand"),
    _percent("SDF  the same, classes balanced, %", "sdf_sign_hand_balanced"),
    _percent("SDF  right sign, object, %", "sdf_sign_object"),
    _percent("SDF  the same, classes balanced, %", "sdf_sign_object_balanced"),
)
BOTH_PROTOCOLS = (
    Column("MJE", "mje_mm"),
    Column("PA-MJE", "pa_mje_mm", 2),
    Column("OCE", "oce_mm"),
    Column("MCE", "mce_mm"),
    Column("OME", "ome_mm"),
    Column("ADD-S", "add_s_mm"),
)
_HAND_KEYS = {unit.key for unit in HAND_UNITS.values()}
_OBJECT_KEYS = {unit.key for unit in OBJECT_UNITS.values()}


def format_result(
    result: Result, fmt: Format = "console", *, label: str = "ours"
) -> str:
    """All tables that fit the result's data set."""
    tables = result_tables(result, label=label)
    if fmt == "json":
        return json.dumps([as_dict(table) for table in tables], indent=2)
    return "\n\n".join(render(table, fmt) for table in tables)


def write_tables(
    result: Result, folder: str | Path, stem: str, *, label: str = "ours"
) -> list[Path]:
    """Writes all tables as `<stem>.txt`, `.md`, `.tex` and `.json`; returns the paths.

    A reader sees the old file or the whole new one.
    """
    folder = Path(folder)
    written = []
    for fmt, suffix in SUFFIXES.items():
        text = format_result(result, fmt, label=label)
        if fmt == "latex":
            text = f"% \\usepackage{{booktabs}}\n{text}"
        path = folder / f"{stem}{suffix}"
        with replacing(path) as part:
            part.write_text(f"{text}\n")
        written.append(path)
    return written


def result_tables(result: Result, *, label: str = "ours") -> list[Table]:
    """The paper's tables with its rows; ours by protocol, object, visible share."""
    dataset = result["protocol"].get("dataset")
    tables = []
    if dataset == "dexycb":
        tables += [table_1(result, label=label), table_2(result, label=label)]
    if dataset == "ho3d":
        tables += [table_3(result, label=label), table_4(result, label=label)]
    tables += [overview_table(result, label=label), protocols_table(result)]
    tables.append(object_table(result))
    if any(result["by_occlusion"].values()):
        tables.append(occlusion_table(result))
    return tables


def table_1(result: Result, *, label: str = "ours") -> Table:
    """Hand and object on DexYCB (HOMAE Table I)."""
    title = "Table I. Hand and object on DexYCB, mm"
    table = _paper_table(title, TABLE_1, PUBLISHED_1, result, label)
    return _with_frames_note(table, result, key="filter", published="hoisdf_small")


def table_2(result: Result, *, label: str = "ours") -> Table:
    """Hand mesh on DexYCB (HOMAE Table II)."""
    title = "Table II. Hand mesh on DexYCB: V-PE in mm, the rest in %"
    table = _paper_table(title, TABLE_2, PUBLISHED_2, result, label)
    return _with_frames_note(table, result, key="filter", published="hoisdf_full")


def table_3(result: Result, *, label: str = "ours") -> Table:
    """Hand and object on HO-3D v2 (HOMAE Table III)."""
    title = "Table III. Hand and object on HO-3D v2, mm"
    table = _paper_table(title, TABLE_3, PUBLISHED_3, result, label)
    if note := _objects_note(result):
        over_frames = (
            f"{column.name} {fixed(_value(result['metrics'], column), 1)}"
            for column in PER_OBJECT
        )
        notes = (*table.notes, note, f"over frames: {', '.join(over_frames)}")
        table = table._replace(notes=notes)
    return _with_frames_note(table, result, key="version", published="v2")


def table_4(result: Result, *, label: str = "ours") -> Table:
    """Single objects on HO-3D v2 (HOMAE Table IV)."""
    groups = result["per_object"]
    listed = [name for name in PUBLISHED_4 if name in groups]
    rows = []
    for name, (ome_hoisdf, ome_paper, add_s_hoisdf, add_s_paper) in PUBLISHED_4.items():
        names = listed if name == "mean" else [name] if name in groups else []
        ome, add_s = (_mean_of_objects(groups, names, column) for column in PER_OBJECT)
        num = sum(groups[each]["num_samples"] for each in names)
        row = [name, ome_hoisdf, ome_paper, ome, add_s_hoisdf, add_s_paper, add_s, num]
        rows.append(row)
    methods = ("HOISDF", "paper", label)
    header = [f"{metric} {method}" for metric in ("OME", "ADD-S") for method in methods]
    others = [name for name in _scored_objects(result) if name not in PUBLISHED_4]
    names = f"not in this table, nor its mean: {', '.join(others)}"
    table = Table(
        title="Table IV. Single objects on HO-3D v2, mm",
        header=("object", *header, "n"),
        rows=rows,
        decimals=(1,) * 6 + (0,),
        notes=(*_notes(result), *([names] if others else [])),
    )
    return _with_frames_note(table, result, key="version", published="v2")


def _scored_objects(result: Result) -> list[str]:
    """Objects with metrics of the object; the protocol may leave some out."""
    keys = [column.key for column in PER_OBJECT]
    groups = result["per_object"].items()
    return [name for name, group in groups if any(k in group["metrics"] for k in keys)]


def _mean_of_objects(
    groups: Mapping[str, Any], names: Sequence[str], column: Column
) -> float | None:
    """Every object weighs the same, however many its frames."""
    values = (_value(groups[name]["metrics"], column) for name in names)
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _averaged(result: Result, column: Column) -> float | None:
    """A metric as the paper averages it: over frames, on HO-3D some over objects."""
    over_frames = _value(result["metrics"], column)
    if result["protocol"].get("dataset") != "ho3d" or column not in PER_OBJECT:
        return over_frames
    objects = _scored_objects(result)
    mean = _mean_of_objects(result["per_object"], objects, column)
    return over_frames if mean is None else mean


def _objects_note(result: Result) -> str:
    """What `_averaged` took the mean of; "": of frames, as everywhere else."""
    objects = _scored_objects(result)
    if result["protocol"].get("dataset") != "ho3d" or not objects:
        return ""
    is_published = {*objects} == {*PUBLISHED_4} - {"mean"}
    which = "as published" if is_published else "published: of Table IV's three"
    return f"OME and ADD-S: the mean of {len(objects)} objects' means, {which}"


def overview_table(result: Result, *, label: str = "ours") -> Table:
    """Every metric beside the trivial predictor's; the ratio is ours / trivial."""
    metrics, baselines = result["metrics"], result["baselines"]
    known = {column.key for column in OVERVIEW} | _HAND_KEYS | _OBJECT_KEYS
    others = [
        Column(key, key, 4, is_error=False) for key in metrics if key not in known
    ]
    rows = []
    for column in (*OVERVIEW, *others):
        own, trivial = (_value(x, column) for x in (metrics, baselines))
        is_twice = column.key == "mje_root_mm" and own == metrics.get("mje_mm")
        if own is None or is_twice:
            continue
        ratio = own / trivial if column.is_error and trivial else None
        texts = (fixed(x, column.decimals) for x in (own, trivial))
        rows.append([column.name, *texts, fixed(ratio, 2), _count(result, column.key)])
    trivial_note = (
        "trivial: the mean hand and object of the training labels at the true wrist, "
        "whatever the picture"
    )
    return Table(
        title=f"Overview, {_name_of(result)}",
        header=("metric", label, "trivial", "ratio", "n"),
        rows=rows,
        decimals=(0,) * 4,
        notes=(*_notes(result), *([trivial_note] if baselines else [])),
    )


def protocols_table(result: Result) -> Table:
    """The same predictions under every protocol (see metrics.py)."""
    own = result["protocol"]["name"]
    sections = {own: result, **result["other_protocols"]}
    rows = [
        [name, *(_value(section["metrics"], column) for column in BOTH_PROTOCOLS)]
        for name, section in sections.items()
    ]
    counts = [
        result["num_samples"] - _num_excluded(section, "object")
        for section in sections.values()
    ]
    return Table(
        title=f"By protocol, {_name_of(result)}, mm",
        header=("protocol", *(column.name for column in BOTH_PROTOCOLS), "n object"),
        rows=[[*row, count] for row, count in zip(rows, counts, strict=True)],
        decimals=(*(column.decimals for column in BOTH_PROTOCOLS), 0),
    )


def object_table(result: Result) -> Table:
    """Ours object by object."""
    columns = (
        Column("MJE", "mje_mm"),
        Column("PA-MJE", "pa_mje_mm"),
        Column("OCE", "oce_mm"),
        Column("MCE", "mce_mm"),
        Column("OME", "ome_mm"),
        Column("ADD-S", "add_s_mm"),
        Column("rot., deg", "object_rotation_deg"),
    )
    rows = []
    for name, group in result["per_object"].items():
        values = (_value(group["metrics"], column) for column in columns)
        rows.append([name, *values, group["num_samples"]])
    return Table(
        title=f"By object, {_name_of(result)}, mm",
        header=("object", *(column.name for column in columns), "n"),
        rows=rows,
        decimals=(1,) * len(columns) + (0,),
    )


def occlusion_table(result: Result) -> Table:
    """Ours and the trivial predictor's by how much of the hand, or object, shows."""
    hand = (Column("MJE", "mje_mm"), Column("PA-MJE", "pa_mje_mm"))
    obj = (Column("OCE", "oce_mm"), Column("ADD-S", "add_s_mm"))
    groups = result["by_occlusion"]
    names = [*groups.get("hand", {}), *groups.get("object", {})]
    rows = []
    for name in sorted(set(names), key=lambda x: _bounds(groups, x)):
        low, high = _bounds(groups, name)
        row: list[Cell] = [f"{name} ({100 * low:.0f}-{100 * high:.0f} %)"]
        for part, columns in (("hand", hand), ("object", obj)):
            group = groups.get(part, {}).get(name, {})
            row += [_value(group.get("metrics", {}), column) for column in columns]
            row += [_value(group.get("baselines", {}), columns[0])]
            row += [group.get("num_samples", 0)]
        rows.append(row)
    return Table(
        title=f"By visible share, {_name_of(result)}, mm",
        header=(
            *("visible", "MJE", "PA-MJE", "trivial MJE", "n hand"),
            *("OCE", "ADD-S", "trivial OCE", "n object"),
        ),
        rows=rows,
        decimals=(1, 1, 1, 0) * 2,
        notes=("hand metrics by the hand's visible share, object's by the object's",),
    )


def runs_table(
    results: Mapping[str, Result], columns: Sequence[Column] = TABLE_3, title: str = ""
) -> Table:
    """Several runs under each other, such as an ablation (HOMAE Tables V-VII).

    Averaged as in the paper's tables of the data set: see Table III.
    """
    rows = []
    for label, result in results.items():
        values = (_averaged(result, column) for column in columns)
        rows.append([label, *values, _counts(result, columns)])
    is_split = any("/" in row[-1] for row in rows)
    return Table(
        title=title or "Runs",
        header=(
            *("run", *(column.name for column in columns)),
            "n hand/object" if is_split else "n",
        ),
        rows=rows,
        decimals=(*(column.decimals for column in columns), 0),
        notes=_same_for_all({k: _objects_note(result) for k, result in results.items()})
        if {*PER_OBJECT} & {*columns}
        else (),
    )


def _same_for_all(notes: Mapping[str, str]) -> tuple[str, ...]:
    """One note where all are the same, else each with its name."""
    if len(set(notes.values())) == 1:
        return tuple(filter(None, notes.values()))[:1]
    return tuple(f"{name}: {note}" for name, note in notes.items() if note)


def submission_table(scores: Mapping[str, float | int]) -> Table:
    """What ho3d_submission.score_submission found, in the leaderboard's units."""
    lengths = (
        ("joints", "mje"),
        ("joints, scale and translation aligned", "st_mje"),
        ("joints, Procrustes aligned", "pa_mje"),
        ("mesh", "v_pe"),
        ("mesh, Procrustes aligned", "pa_v_pe"),
    )
    rows: list[list[Cell]] = []
    for name, key in lengths:
        if f"{key}_cm" in scores:
            cm, mm = scores[f"{key}_cm"], scores[f"{key}_mm"]
            rows.append([f"{name}: error", fixed(cm, 2), fixed(mm, 1)])
    rows += [
        [f"{key}, %", fixed(100 * value, 1), None]
        for key, value in scores.items()
        if key.split("_")[-1] in ("auc", "5", "15")
    ]
    return Table(
        title="HO-3D's official scores",
        header=("score", "cm (or %)", "mm"),
        rows=rows,
        decimals=(0, 0),
        notes=(f"{scores['num_frames']} frames",),
    )


def _paper_table(
    title: str,
    columns: Sequence[Column],
    published: Mapping[str, Sequence[float]],
    result: Result,
    label: str,
) -> Table:
    own = [_averaged(result, column) for column in columns]
    counts = _counts(result, columns)
    header = "n hand/object" if "/" in counts else "n"
    rows = [[name, *values, None] for name, values in published.items()]
    rows.append([label, *own, counts])
    return Table(
        title=title,
        header=("method", *(column.name for column in columns), header),
        rows=rows,
        decimals=(*(column.decimals for column in columns), 0),
        notes=_notes(result),
    )


def _with_frames_note(
    table: Table, result: Result, *, key: str, published: str
) -> Table:
    """Says where the frames scored are not those, or the nearest to those, published.

    Args:
      key: of the result's settings; without it there is nothing to say.
    """
    own = result["protocol"].get(key, published)
    if own == published:
        return table
    note = f"published rows: frames of {key} {published}, not {own}"
    return table._replace(notes=(*table.notes, note))


def _notes(result: Result) -> tuple[str, ...]:
    protocol = result["protocol"]
    given = [
        f"{key}={protocol[key]}"
        for key in ("root", "boxes", "object_center")
        if key in protocol
    ]
    text = f"protocol {protocol['name']}, hand scored as {protocol['hand']}"
    if "step" in protocol:
        given.append(f"step {protocol['step']}")
    notes = [", ".join([text, *given])]
    if most := protocol.get("data.max_eval_frames"):
        notes.append(f"not the whole split: data.max_eval_frames={most}")
    if "filter" in protocol:
        left = protocol["left_hands"]
        notes.append(f"frames: filter {protocol['filter']}, left hands: {left}")
    for reason, count in result["excluded"].items():
        kind, _, why = reason.partition("_metrics_")
        notes.append(f"left out of {kind} metrics: {count} ({why.replace('_', ' ')})")
    return tuple(notes)


def _name_of(result: Result) -> str:
    protocol = result["protocol"]
    words = [protocol.get("dataset", ""), protocol.get("split", "")]
    return " ".join([*filter(None, words), f"({result['num_samples']} samples)"])


def _bounds(groups: Mapping[str, Any], name: str) -> tuple[float, float]:
    group = next(part[name] for part in groups.values() if name in part)
    return group["visible_from"], group["visible_below"]


def _value(metrics: Mapping[str, float], column: Column) -> float | None:
    value = metrics.get(column.key)
    return None if value is None else value * column.factor


def _counts(result: Result, columns: Sequence[Column]) -> str:
    """Samples of hand and object metrics, "n/m" where these differ."""
    keys = {column.key for column in columns}
    firsts = [sorted(keys & part)[:1] for part in (_HAND_KEYS, _OBJECT_KEYS)]
    counts = [str(_count(result, key)) for first in firsts for key in first]
    return "/".join(dict.fromkeys(counts))


def _count(result: Result, key: str) -> int | None:
    """Samples that a metric is the mean of; None: not known here."""
    if key in _HAND_KEYS:
        return result["num_samples"] - _num_excluded(result, "hand")
    if key in _OBJECT_KEYS:
        return _num_object(result)
    return result.get("probed", {}).get("num_samples")


def _num_object(result: Result) -> int:
    return result["num_samples"] - _num_excluded(result, "object")


def _num_excluded(result: Result, part: str) -> int:
    return sum(n for why, n in result["excluded"].items() if why.startswith(part))
