"""Scores a predictor on a split, and a trivial one beside it.

Values per sample (metrics.py) are gathered by `sample_index`, so that padding and
repeated rows count once; report.py turns them into the result.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from homae_jax import metrics
from homae_jax.errors import UserError
from homae_jax.evaluation import report
from homae_jax.geometry.rotations import mean_rotmat
from homae_jax.progress import progress_bar
from homae_jax.schema import Array, Batch, ObjectTemplates


class TrueHand(NamedTuple):
    """The true hand of a batch, camera frame."""

    joints: Float[Array, "b 21 3"] | None  # of MANO posed as labelled; None: no label
    vertices: Float[Array, "b 778 3"] | None  # None: no mesh metrics


class Prediction(NamedTuple):
    """What is scored of a batch, camera frame; labels may be put here as well.

    `extra` holds further values per sample that the result is to report under their
    keys, `extra_baselines` the trivial predictor's; NaN where a sample has none.
    """

    joints: Float[Array, "b 21 3"]
    vertices: Float[Array, "b 778 3"]
    object_rotmat: Float[Array, "b 3 3"]
    object_trans: Float[Array, "b 3"]
    true_hand: TrueHand = TrueHand(None, None)
    extra: Mapping[str, Float[Array, " b"]] = {}
    extra_baselines: Mapping[str, Float[Array, " b"]] = {}


class TrivialPredictor(NamedTuple):
    """What the training labels say before one looks at the picture.

    It is given the wrist, as everybody is under protocol.root="gt", and no box.
    """

    joints_root: Float[np.ndarray, "21 3"]  # relative to the wrist
    vertices_root: Float[np.ndarray, "778 3"]
    object_rotmat: Float[np.ndarray, "3 3"]
    object_trans_root: Float[np.ndarray, " 3"]  # relative to the wrist


@runtime_checkable
class FrameSource(Protocol):
    """The part of a source that a report needs."""

    def frame_name(self, i: int) -> str:
        """Names a frame to a person."""

    def frame_info(self, i: int) -> Mapping[str, Any]:
        """`hand_visibility` and `object_visibility` in [0, 1], or NaN."""


def fit_trivial(
    joints_root: Float[np.ndarray, "n 21 3"],
    vertices_root: Float[np.ndarray, "m 778 3"],
    object_rotmat: Float[np.ndarray, "k 3 3"],
    object_trans_root: Float[np.ndarray, "k 3"],
) -> TrivialPredictor:
    """Means of training labels: of the hand, the object's rotation, its offset."""
    rotmat = mean_rotmat(jnp.asarray(object_rotmat, jnp.float32))
    return TrivialPredictor(
        joints_root=joints_root.mean(axis=0),
        vertices_root=vertices_root.mean(axis=0),
        object_rotmat=np.asarray(rotmat),
        object_trans_root=object_trans_root.mean(axis=0),
    )


def evaluate(
    predict_fn: Callable[[Batch], Prediction],
    batches: Iterable[Batch],
    *,
    source: FrameSource,
    templates: ObjectTemplates,
    object_names: Sequence[str],
    trivial: TrivialPredictor | None = None,
    dataset: str = "ho3d",
    protocol: metrics.Protocol = "hoisdf",
    settings: Mapping[str, Any] | None = None,
    num_batches: int | None = None,
    frames: list[dict[str, Any]] | None = None,
) -> report.Result:
    """Predicts and scores every real row of the batches.

    Args:
      batches: all of one size; the last padded by rows that are not `is_real`.
      source: names frames, tells how visible hand and object are.
      object_names: of the rows of `templates`.
      trivial: scored beside the model, as `baselines`.
      dataset: a key of report.DATASETS.
      protocol: of the result's top level; the others' numbers lie under
        `other_protocols`.
      settings: kept in the result's `protocol`: what was given at test time.
      num_batches: where known, the progress is shown.
      frames: gets a record for every sample: its row, name, errors, visible shares.

    Raises:
      UserError: a prediction is not finite, or there is nothing to score.
    """
    rules = report.dataset_rules(dataset)
    scorer = _Scorer(rules, templates, trivial)
    if num_batches is not None:
        batches = progress_bar(batches, total=num_batches, desc="evaluate")
    parts = []
    for batch in batches:
        prediction = predict_fn(batch)
        _check_finite(prediction, batch, source)
        parts.append(scorer(prediction, batch))
    samples = _gather(parts)
    infos = [source.frame_info(int(i)) for i in samples.index]
    if frames is not None:
        frames += report.frame_records(
            samples,
            protocol,
            names=[source.frame_name(int(i)) for i in samples.index],
            infos=infos,
        )
    return report.make_report(
        samples,
        object_names=object_names,
        visibility={
            part: np.array([info[f"{part}_visibility"] for info in infos], np.float64)
            for part in ("hand", "object")
        },
        rules=rules,
        protocol=protocol,
        settings={"dataset": dataset, **(settings or {})},
    )


class _Scorer:
    """Turns predictions into values per sample, under every protocol."""

    def __init__(
        self,
        rules: report.DatasetRules,
        templates: ObjectTemplates,
        trivial: TrivialPredictor | None,
    ):
        self._hand_protocol = {p: rules.hand_protocol or p for p in metrics.PROTOCOLS}
        self._vertices = jnp.asarray(templates.vertices)
        self._corners = jnp.asarray(templates.corners)
        self._trivial = trivial
        self._hand = jax.jit(metrics.hand_metrics, static_argnames="protocol")
        self._object = jax.jit(metrics.object_metrics, static_argnames="protocol")

    def __call__(self, prediction: Prediction, batch: Batch) -> report.Samples:
        scored = {"metrics": (prediction, prediction.extra)}
        if self._trivial is not None:
            trivial = _predict_trivial(self._trivial, batch, prediction.true_hand)
            scored["baselines"] = (trivial, prediction.extra_baselines)
        values = {name: {} for name in metrics.PROTOCOLS}
        for kind, (candidate, extra) in scored.items():
            extra = {key: np.asarray(x, np.float64) for key, x in extra.items()}
            for name, columns in self._score(candidate, batch).items():
                values[name][kind] = columns | extra
        samples = report.Samples(
            index=np.asarray(batch.sample_index),
            object_index=np.asarray(batch.object_index),
            has_hand=np.asarray(batch.has_hand),
            has_object=np.asarray(batch.has_object),
            values=values,
        )
        is_real = np.asarray(batch.is_real)
        return jax.tree.map(lambda column: column[is_real], samples)

    def _score(self, pred: Prediction, batch: Batch) -> dict[str, dict]:
        """Protocol -> key -> values in the result's units."""
        hands = {
            name: self._score_hand(pred, batch, name)
            for name in sorted(set(self._hand_protocol.values()))
        }
        return {
            name: hands[self._hand_protocol[name]]
            | self._score_object(pred, batch, name)
            for name in metrics.PROTOCOLS
        }

    def _score_hand(self, pred: Prediction, batch: Batch, protocol: str) -> dict:
        true = pred.true_hand
        # HOISDF's truth is its MANO layer on the labels' pose, not the labels' joints:
        # of DexYCB's left hands, mirrored, the two are millimetres apart.
        is_posed = protocol == "hoisdf" and true.joints is not None
        hand = self._hand(
            pred.joints,
            true.joints if is_posed else batch.joints,
            None if true.vertices is None else pred.vertices,
            true.vertices,
            protocol=protocol,
        )
        return _in_units(hand, report.HAND_UNITS, batch.has_hand)

    def _score_object(self, pred: Prediction, batch: Batch, protocol: str) -> dict:
        obj = self._object(
            pred.object_rotmat,
            pred.object_trans,
            batch.object_rotmat,
            batch.object_trans,
            self._vertices[batch.object_index],
            self._corners[batch.object_index],
            protocol=protocol,
        )
        return _in_units(obj, report.OBJECT_UNITS, batch.has_object)


def _in_units(
    values: Mapping[str, Array], units: Mapping[str, report.Unit], is_labelled: Array
) -> dict[str, np.ndarray]:
    """Renamed and scaled; NaN where there is no label."""
    result = {}
    for name, value in values.items():
        scaled = np.asarray(value, np.float64) * units[name].factor
        result[units[name].key] = np.where(is_labelled, scaled, np.nan)
    return result


def _predict_trivial(
    trivial: TrivialPredictor, batch: Batch, true_hand: TrueHand
) -> Prediction:
    wrist = np.asarray(batch.wrist)[:, None]
    rotmat = np.broadcast_to(trivial.object_rotmat, (len(wrist), 3, 3))
    return Prediction(
        joints=np.float32(trivial.joints_root[None] + wrist),
        vertices=np.float32(trivial.vertices_root[None] + wrist),
        object_rotmat=np.float32(rotmat),
        object_trans=np.float32(trivial.object_trans_root[None] + wrist[:, 0]),
        true_hand=true_hand,
    )


def _check_finite(prediction: Prediction, batch: Batch, source: FrameSource) -> None:
    is_real = np.asarray(batch.is_real)
    for name in ("joints", "vertices", "object_rotmat", "object_trans"):
        values = np.asarray(getattr(prediction, name)).reshape(len(is_real), -1)
        is_broken = is_real & ~np.isfinite(values).all(axis=1)
        if is_broken.any():
            row = int(np.asarray(batch.sample_index)[np.argmax(is_broken)])
            raise UserError(
                f"frame {source.frame_name(row)}: predicted {name} are not finite "
                f"({is_broken.sum()} of the batch's {is_real.sum()} frames); take an "
                "earlier checkpoint and look at the losses in metrics.jsonl"
            )


def _gather(parts: Sequence[report.Samples]) -> report.Samples:
    """All parts, each sample once, ordered by index."""
    if not any(len(part.index) for part in parts):
        raise UserError("no frame to evaluate: the split is empty")
    joined = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
    _, first = np.unique(joined.index, return_index=True)
    return jax.tree.map(lambda column: column[first], joined)
