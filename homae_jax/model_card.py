"""The model card that an export carries: what it is, what it was trained on, what for.

Markdown, made from the configuration and the results in the run's folder alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from homae_jax import __version__
from homae_jax.config_flags import ROOT
from homae_jax.errors import UserError
from homae_jax.evaluation import report, tables
from homae_jax.evaluation.rendering import render
from homae_jax.progress import format_seconds
from homae_jax.viz import curves

DATA_NOTES = {
    "synthetic": "Scenes made by `homae_jax.synthesize` from procedural hands, objects "
    "and textures. It has seen no photograph: expect it to work on pictures of that "
    "world, and to be wrong on yours.",
    "ho3d": "HO-3D v2 (academic use only) and MANO, which has a licence of its own. "
    "Check both before you use or share these parameters.",
    "dexycb": "DexYCB (CC BY-NC 4.0) and MANO, which has a licence of its own.",
}
LICENCES = {
    "synthetic": "Apache-2.0, as the code",
    "ho3d": "academic use only, as HO-3D and MANO",
    "dexycb": "CC BY-NC 4.0 and MANO's, as the data",
}
PREDICTED = "predicted"  # of a value of config.protocol
COST_COLUMNS = (
    tables.Column("MJE", "mje_mm"),
    tables.Column("MJE, wrist on wrist", "mje_root_mm"),
    tables.Column("PA-MJE", "pa_mje_mm"),
    tables.Column("OCE", "oce_mm"),
    tables.Column("MCE", "mce_mm"),
    tables.Column("OME", "ome_mm"),
    tables.Column("ADD-S", "add_s_mm"),
)


def model_card(
    config: ml_collections.ConfigDict, *, step: int, num_parameters: int, folder: Path
) -> str:
    """The card's text; `folder` is the run's, where evaluations lie."""
    data, model = config.data, config.model
    facts = {
        "step": f"{step:,}",
        "parameters": f"{num_parameters / 1e6:.2f} M",
        "encoder": model.encoder.variant
        + (
            f", from {Path(model.encoder.weights).name}"
            if model.encoder.weights
            else ""
        ),
        "crop": f"{data.image_size} px",
        "data": data.dataset,
        "global batch": config.train.batch_size,
        "finds boxes and wrist by itself": "yes"
        if model.get("auxiliary", False)
        else "no: they must be given",
        "licence": LICENCES.get(data.dataset, "that of the data"),
        "made with": f"homae_jax {__version__}",
    } | _training_facts(config, folder)
    given = ", ".join(k for k, v in config.protocol.to_dict().items() if v == "gt")
    return "\n".join(
        [
            f"# {config.name}",
            "",
            "3D hand and object pose from one RGB picture (HOMAE, arXiv 2506.10816, an "
            "independent implementation in JAX).",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in facts.items()),
            "",
            "## Trained on",
            "",
            DATA_NOTES.get(data.dataset, data.dataset),
            "",
            "## Results",
            "",
            *_results(folder, step),
            "",
            f"Given at test time: {given or 'nothing'}.",
            "",
            "## Use",
            "",
            "```python",
            "from homae_jax import Predictor",
            "",
            'predict = Predictor("this folder")',
            "result = predict(image, intrinsics=K)  # metres, OpenCV camera frame",
            "```",
            "",
            "Without the true K distances are not metric. One right or left hand and "
            "one known object per picture; two hands, articulated or unknown objects "
            "are out of scope. Not for decisions about people.",
            "",
        ]
    )


def _training_facts(config: ml_collections.ConfigDict, folder: Path) -> dict[str, str]:
    """The command that trained it and the time its steps took, where they are known."""
    facts = {}
    file = Path("configs") / f"{config.name}.py"
    if (ROOT / file).is_file():
        facts["trained by"] = f"`bash launch/train.sh --config={file}`"
    metrics = folder / "metrics.jsonl"
    if metrics.is_file():
        seconds = training_seconds(curves.read_metrics(metrics))
        if seconds:
            facts["time of its steps"] = format_seconds(seconds)
    return facts


def training_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that the logged steps took, from the speed of each interval."""
    seconds, last = 0.0, 0
    for record in records:
        speed = record.get("steps_per_second")
        if speed:
            seconds += (record["step"] - last) / speed
            last = record["step"]
    return seconds


def _results(folder: Path, step: int) -> list[str]:
    """The tables of every evaluation of the step, then what prediction costs.

    Where boxes, wrist and centre were predicted, only that last table is shown.
    """
    found = [p for p in sorted((folder / "eval").glob("*.json")) if _is_result(p)]
    results = {path.stem: report.read_result(path) for path in found}
    results = {
        name: result
        for name, result in results.items()
        if result["protocol"].get("step", step) == step
    }
    if not results:
        return [f"None of step {step:,} were stored with the run."]
    texts = [
        tables.format_result(result, "markdown")
        for result in results.values()
        if not _predicted_inputs(result)
    ]
    texts += [render(table, "markdown") for table in cost_of_prediction(results)]
    return "\n\n".join(texts).splitlines()


def cost_of_prediction(results: Mapping[str, report.Result]) -> list[tables.Table]:
    """Given and predicted inputs under each other; [] where nothing was predicted.

    Only results of the same step are compared.
    """
    splits: dict[tuple[Any, ...], dict[str, report.Result]] = {}
    for result in results.values():
        key = tuple(map(result["protocol"].get, ("dataset", "split", "step")))
        names = _predicted_inputs(result)
        label = f"predicted: {', '.join(names)}" if names else "all given"
        splits.setdefault(key, {})[label] = result
    found = []
    for (*names, step), rows in splits.items():
        if len(rows) < 2:
            continue
        title = f"What prediction costs, {' '.join(filter(None, names))}, mm"
        table = tables.runs_table(dict(sorted(rows.items())), COST_COLUMNS, title)
        notes = [*table.notes, "the crop is that of the labels in every row"]
        notes += [] if step is None else [f"step {step}"]
        found.append(table._replace(notes=tuple(notes)))
    return found


def _predicted_inputs(result: report.Result) -> list[str]:
    protocol = result["protocol"]
    return sorted(key for key, value in protocol.items() if value == PREDICTED)


def _is_result(path: Path) -> bool:
    try:
        content: Mapping[str, Any] = report.read_result(path)
        return "protocol" in content
    except (UserError, json.JSONDecodeError):
        return False
