"""From values per sample to the result of an evaluation: means overall and by group.

A value that does not exist for a sample (no label, an object its protocol leaves out)
is NaN and enters no mean. Results are in millimetres, degrees and fractions of 1, with
the unit in the key; `num_samples` counts the rows that have a value.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from homae_jax import metrics
from homae_jax.errors import UserError
from homae_jax.whole_file import replacing

Result = dict[str, Any]
Column = Float[np.ndarray, " n"]
Columns = dict[str, dict[str, Column]]  # "metrics" | "baselines" -> key -> per sample


class DatasetRules(NamedTuple):
    """How a data set's published numbers are made (HOISDF, HO-3D's scorer)."""

    hand_protocol: metrics.Protocol | None  # None: the same as the object's
    excluded_objects: Mapping[str, tuple[str, ...]]  # protocol -> no object metrics


DATASETS = {
    # The hand is scored as the official scorer does, whatever the protocol; HOISDF
    # leaves the pitcher, which training never shows, out of its object numbers.
    "ho3d": DatasetRules("standard", {"hoisdf": ("019_pitcher_base",)}),
    "dexycb": DatasetRules(None, {}),
    "synthetic": DatasetRules("standard", {}),
}

# Visible share of the silhouette: from (included), below. Heavy as in `synthetic`.
OCCLUSION_BINS = {
    "severe": (0.0, 0.4),
    "heavy": (0.4, 0.6),
    "partial": (0.6, 0.8),
    "light": (0.8, 1.01),
}


class Unit(NamedTuple):
    """How a value of metrics.py enters a result."""

    key: str
    factor: float
    decimals: int


def _mm(name: str) -> Unit:
    return Unit(f"{name}_mm", 1e3, 3)


def _share(name: str) -> Unit:
    return Unit(name, 1.0, 5)


HAND_UNITS = {
    **{name: _mm(name) for name in ("mje", "mje_root", "st_mje", "pa_mje")},
    **{name: _share(name) for name in ("j_auc", "st_j_auc", "pa_j_auc")},
    **{name: _mm(name) for name in ("v_pe", "pa_v_pe")},
    **{name: _share(name) for name in ("v_auc", "pa_v_auc")},
    **{name: _share(name) for name in ("f_5", "f_15", "pa_f_5", "pa_f_15")},
}
OBJECT_UNITS = {
    **{name: _mm(name) for name in ("oce", "mce", "add_s", "ome")},
    "rotation": Unit("object_rotation_deg", 180 / math.pi, 3),
}
_KEYS = {
    "hand": frozenset(unit.key for unit in HAND_UNITS.values()),
    "object": frozenset(unit.key for unit in OBJECT_UNITS.values()),
}
_DECIMALS = {u.key: u.decimals for u in (*HAND_UNITS.values(), *OBJECT_UNITS.values())}
FRAME_KEYS = ("mje_root_mm", "pa_mje_mm", "oce_mm", "add_s_mm", "object_rotation_deg")
EXTRA_DIGITS = 5  # significant, of values that metrics.py does not know


class Samples(NamedTuple):
    """One row per sample."""

    index: Int[np.ndarray, " n"]  # row of the source
    object_index: Int[np.ndarray, " n"]  # row of the templates
    has_hand: Bool[np.ndarray, " n"]
    has_object: Bool[np.ndarray, " n"]
    values: dict[str, Columns]  # by protocol, in the result's units


def dataset_rules(dataset: str) -> DatasetRules:
    """The rules of a data set.

    Raises:
      UserError: it is not one of DATASETS.
    """
    if dataset not in DATASETS:
        raise UserError(f'data set "{dataset}": use one of {", ".join(DATASETS)}')
    return DATASETS[dataset]


def make_report(
    samples: Samples,
    *,
    object_names: Sequence[str],
    visibility: Mapping[str, Column],
    rules: DatasetRules,
    protocol: metrics.Protocol,
    settings: Mapping[str, Any],
) -> Result:
    """The result of an evaluation, ready for `write_result`.

    Args:
      object_names: of the templates' rows.
      visibility: visible share of "hand" and "object" per sample, or NaN.
      protocol: of the top level; what the others give lies in `other_protocols`.
      settings: goes into `protocol`.
    """
    names = np.array([object_names[i] for i in samples.object_index])
    sections = {
        name: _section(
            samples, values, names, visibility, rules.excluded_objects.get(name, ())
        )
        for name, values in samples.values.items()
    }
    own = {
        "name": protocol,
        "hand": rules.hand_protocol or protocol,
        "object": protocol,
        **settings,
    }
    return {
        "protocol": own,
        "num_samples": len(samples.index),
        **sections.pop(protocol),
        "other_protocols": sections,
    }


def frame_records(
    samples: Samples,
    protocol: metrics.Protocol,
    *,
    names: Sequence[str],
    infos: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One record a sample, for lists of the best and the worst; None where unknown."""
    values = samples.values[protocol]["metrics"]
    columns = {key: values[key] for key in FRAME_KEYS if key in values}
    for part in ("hand", "object"):
        key = f"{part}_visibility"
        columns[key] = np.array([info[key] for info in infos], np.float64)
    rows = zip(*columns.values(), strict=True)
    return [
        {"row": int(row), "name": name, "object": info["object_name"]}
        | {
            key: round(float(value), 3) if np.isfinite(value) else None
            for key, value in zip(columns, numbers, strict=True)
        }
        for row, name, info, numbers in zip(
            samples.index, names, infos, rows, strict=True
        )
    ]


def frame_error(record: Mapping[str, Any]) -> float:
    """By which frames are ranked: the sum of hand and object errors, mm."""
    return sum(record.get(key) or 0.0 for key in ("mje_root_mm", "oce_mm"))


def write_result(result: Result, path: str | Path) -> None:
    """Writes JSON; a reader sees the old file or the whole new one."""
    text = json.dumps(result, indent=2, allow_nan=False)
    with replacing(path) as part:
        part.write_text(f"{text}\n")


def read_result(path: str | Path) -> Result:
    """Reads what `write_result` wrote.

    Raises:
      UserError: there is no such file, or it is not a result.
    """
    try:
        result = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such result; run an evaluation first") from None
    except ValueError as error:
        raise UserError(f"{path}: not a result of an evaluation ({error})") from None
    if not isinstance(result, dict) or "metrics" not in result:
        raise UserError(f'{path}: not a result of an evaluation (no "metrics")')
    return result


def _section(
    samples: Samples,
    values: Columns,
    names: np.ndarray,
    visibility: Mapping[str, Column],
    excluded_objects: Sequence[str],
) -> Result:
    """One protocol's part of the report; per object nothing is left out."""
    is_out = np.isin(names, excluded_objects)
    counted = _blank(values, _KEYS["object"], is_out)
    return {
        "excluded": _excluded(samples, names, is_out),
        **_means(counted),
        "per_object": {
            str(name): _group(values, names == name) for name in np.unique(names)
        },
        "by_occlusion": {
            part: _by_visibility(_keep(counted, _KEYS[part]), shares)
            for part, shares in visibility.items()
        },
    }


def _excluded(
    samples: Samples, names: np.ndarray, is_out: np.ndarray
) -> dict[str, int]:
    """How many samples miss from which metrics, and why."""
    counts = {
        "hand_metrics_no_label": int((~samples.has_hand).sum()),
        "object_metrics_no_label": int((~samples.has_object).sum()),
    }
    for name in np.unique(names[is_out]):
        is_counted = samples.has_object & (names == name)
        counts[f"object_metrics_{name}"] = int(is_counted.sum())
    return {reason: count for reason, count in counts.items() if count}


def _by_visibility(values: Columns, shares: Column) -> dict[str, Result]:
    groups = {}
    for name, (low, high) in OCCLUSION_BINS.items():
        group = _group(values, (shares >= low) & (shares < high))
        if group["num_samples"]:
            bounds = {"visible_from": low, "visible_below": min(high, 1.0)}
            groups[name] = bounds | group
    return groups


def _group(values: Columns, rows: Bool[np.ndarray, " n"]) -> Result:
    """Means over some rows, with the number of those that have any value."""
    picked = {
        kind: {key: column[rows] for key, column in columns.items()}
        for kind, columns in values.items()
    }
    has_value = np.zeros(int(rows.sum()), bool)
    for column in picked["metrics"].values():
        has_value |= ~np.isnan(column)
    return {"num_samples": int(has_value.sum()), **_means(picked)}


def _means(values: Columns) -> dict[str, dict[str, float]]:
    """Means over the samples that have a value; a key that none has is left out."""
    return {
        kind: {
            key: _rounded(key, float(np.nanmean(column)))
            for key, column in values.get(kind, {}).items()
            if not np.isnan(column).all()
        }
        for kind in ("metrics", "baselines")
    }


def _rounded(key: str, value: float) -> float:
    if key in _DECIMALS:
        return round(value, _DECIMALS[key])
    return float(f"{value:.{EXTRA_DIGITS}g}")


def _keep(values: Columns, keys: frozenset[str]) -> Columns:
    return {
        kind: {key: column for key, column in columns.items() if key in keys}
        for kind, columns in values.items()
    }


def _blank(values: Columns, keys: frozenset[str], is_out: np.ndarray) -> Columns:
    """Puts NaN where a sample does not count."""
    return {
        kind: {
            key: np.where(is_out, np.nan, column) if key in keys else column
            for key, column in columns.items()
        }
        for kind, columns in values.items()
    }
