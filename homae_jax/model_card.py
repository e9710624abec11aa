"""The model card that an export carries: what it is, what it was trained on, what for.

Markdown, made from the configuration and the results in the run's folder alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from homae_jax import __version__
from homae_jax.errors import UserError
from homae_jax.evaluation import report, tables

DATA_NOTES = {
    "synthetic": "Scenes made by `homae_jax.synthesize` from procedural hands, objects "
    "and textures. It has seen no photograph: expect it to work on pictures of that "
    "world, and to be wrong on yours.",
    "ho3d": "HO-3D v2 (academic use only) and MANO, which has a licence of its own. "
    "Check both before you use or share these parameters.",
    "dexycb": "DexYCB (CC BY-NC 4.0) and MANO, which has a licence of its own.",
}


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
        "made with": f"homae_jax {__version__}",
    }
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
            *_results(folder),
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


def _results(folder: Path) -> list[str]:
    """The tables of every evaluation in the run's folder."""
    found = [p for p in sorted((folder / "eval").glob("*.json")) if _is_result(p)]
    if not found:
        return ["None were stored with the run."]
    texts = [tables.format_result(report.read_result(p), "markdown") for p in found]
    return "\n\n".join(texts).splitlines()


def _is_result(path: Path) -> bool:
    try:
        content: Mapping[str, Any] = report.read_result(path)
        return "protocol" in content
    except (UserError, json.JSONDecodeError):
        return False
