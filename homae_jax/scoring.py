"""Scores parameters on a split and draws what they say: `Scorer`.

Used by the entry points evaluate and train (at its end); like assembly.py it reads
`config`, and nothing below the entry points imports it. Camera frame, metres; results
carry their units in the keys (evaluation/report.py).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import UInt8

from homae_jax import assembly
from homae_jax.data import pipeline
from homae_jax.data.source import GroundTruth, Source
from homae_jax.errors import UserError
from homae_jax.evaluation import evaluator, report, tables
from homae_jax.evaluation.runner import ModelRunner, Shown, spread
from homae_jax.geometry import rotations
from homae_jax.hand.mano import ManoModel, fingertips_of, mano_forward
from homae_jax.models.dinov2 import IMAGE_MEAN, IMAGE_STD
from homae_jax.schema import Batch
from homae_jax.viz import curves, figures

PROBED_FRAMES = 200  # reconstruction and SDF signs are measured on about so many
TRIVIAL_FRAMES = 512  # training frames whose mean the trivial predictor says
NUM_EXTREME = 4  # best, and worst, frames drawn
NUM_PREVIEWED = 3  # frames drawn while training
NUM_SLICED = 4  # frames in the figure of SDF slices
SLICE_LIMIT = 0.05  # metres, where their colours saturate
INPUT_KEYS = (  # of config.data: what the network is shown, and of how many frames
    *("crop", "crop_scale", "hand_box_scale", "object_box_scale", "image_size"),
    *("object_center", "object_center_depth", "max_eval_frames"),
)
CURVES = {
    "loss": ("loss",),
    "errors on training batches, mm": ("mje_mm", "oce_mm"),
    "signed distance": ("sdf_hand", "sdf_object"),
    "reconstruction": ("rec", "rec_masked"),
    "joints and vertices": ("joints", "vertices"),
    "boxes and wrist found, shares of the view": (
        "aux_hand_box",
        "aux_object_box",
        "aux_wrist_px",
    ),
    "learning rate": ("learning_rate", "lr"),
}


class Unwanted(Exception):
    """A scoring was left off because nobody waits for it any more."""


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the configuration asks for what cannot be scored."""
    found_options(config)
    assembly.check_split(config, config.data.eval_split)


def result_file(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    split: str,
    *,
    on_the_way_at: int | None = None,
) -> Path:
    """Where `Scorer.evaluate` writes its numbers; predicted inputs are in the name.

    Those of a step on the way have a folder of their own: `eval/*.json` are the run's.
    """
    protocol = config.protocol.to_dict()
    found = sorted(key for key, value in protocol.items() if value == "predicted")
    words = [config.data.dataset, split]
    if found:
        words += ["predicted", *(found if len(found) < len(protocol) else [])]
    folder = Path(workdir) / "eval"
    if on_the_way_at is not None:
        folder /= f"step_{on_the_way_at}"
    return folder / f"{'_'.join(words)}.json"


class Scorer:
    """Scores parameters on a split, and draws a few of its frames on the way there.

    Both by the same programs, which are compiled once.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, parts: assembly.Parts, *, split: str
    ):
        self._config, self._parts, self._split = config, parts, split
        self._runner: ModelRunner | None = None
        self._previewed: Batch | None = None

    def open(self) -> None:
        """Opens the split: what is wrong with it shows now, not after a training.

        Raises:
          UserError: it cannot be read, or not be scored as configured.
        """
        _ = self._truth

    def preview(self, params: Any) -> dict[str, UInt8[np.ndarray, "_h _w 3"]]:
        """Pictures of a few frames, for `MetricWriter.images`: name -> picture.

        Args:
          params: of `parts.model`, on the host or any one device.
        """
        frames = assembly.eval_frames(self._config, len(self._source))
        frames = frames[spread(self._config.evaluate.batch_size, len(frames))]
        if self._previewed is None:
            (self._previewed,) = self._batches(frames)
        shown = frames[spread(NUM_PREVIEWED, len(frames))].tolist()
        runner = self._plan(params, probed_batches=[0], shown_samples=shown)
        runner(self._previewed)
        return self._draw(runner.shown, title="preview")

    def evaluate(
        self,
        params: Any,
        *,
        workdir: str | Path,
        step: int,
        is_on_the_way: bool = False,
        ends_training: bool = False,
        is_unwanted: Callable[[], bool] | None = None,
    ) -> report.Result:
        """Writes JSON, tables and figures, prints the table.

        Args:
          params: of `parts.model`, on the host or any one device.
          step: when they were saved; kept in the result.
          is_on_the_way: the run goes on; see `result_file`.
          ends_training: these are the parameters of the last step; kept in the result.
          is_unwanted: asked before every batch whether to leave off.

        Raises:
          Unwanted: `is_unwanted` said yes; nothing was written.
        """
        config, parts, source = self._config, self._parts, self._source
        workdir = Path(workdir)
        frames = assembly.eval_frames(config, len(source))
        batch_size = config.evaluate.batch_size
        num_batches = pipeline.num_batches(len(frames), batch_size)
        probed = spread(-(-PROBED_FRAMES // batch_size), num_batches)
        shown = shown_rows(frames, probed, batch_size, config.evaluate.num_figures)
        compiles = "" if self._runner else "; the first batch compiles"
        print(f"scoring {len(frames)} frames of {self._split}{compiles}", flush=True)
        runner = self._plan(params, probed_batches=probed.tolist(), shown_samples=shown)
        records: list[dict[str, Any]] = []
        result = evaluator.evaluate(
            runner,
            _while_wanted(self._batches(frames), is_unwanted),
            source=source,
            templates=parts.templates,
            object_names=parts.object_names,
            trivial=fit_trivial(config, parts),
            dataset=config.data.dataset,
            settings=_settings(config, source)
            | {"split": self._split, "step": int(step)}
            | {"ends_training": ends_training},
            num_batches=num_batches,
            frames=records,
        )
        result["probed"] = {
            "num_samples": runner.num_probed,
            "near_sigma_mm": 1e3 * config.targets.near_sigma,
        }
        at = int(step) if is_on_the_way else None
        path = result_file(config, workdir, self._split, on_the_way_at=at)
        report.write_result(result, path)
        name = path.stem
        report.write_result({"frames": records}, path.with_name(f"{name}_frames.json"))
        tables.write_tables(result, path.parent / "tables", name)
        pictures = self._draw(runner.shown, title=name)
        for kind, rows in extreme_rows(records).items():
            runner.plan(probed_batches=[], shown_samples=rows)
            for batch in self._batches(np.array(rows)):
                runner(batch)
            title = f"{kind.capitalize()} frames of {name}"
            pictures[kind] = self._draw(runner.shown, title=title)["predictions"]
        for kind, picture in pictures.items():
            figures.write_png(workdir / "figures" / f"{name}_{kind}.png", picture)
        write_curves(workdir)
        print(tables.format_result(result))
        print(f"-> {path}, {path.parent / 'tables'}, {workdir / 'figures'}", flush=True)
        return result

    @functools.cached_property
    def _source(self) -> Source:
        return assembly.build_source(self._config, self._split)

    @functools.cached_property
    def _truth(self) -> "HandTruth":
        fingertips = self._config.evaluate.fingertips
        return HandTruth(self._source, self._parts, fingertips=fingertips)

    def _batches(self, frames: np.ndarray) -> Iterator[Batch]:
        batches = assembly.build_eval_batches(
            self._config, self._source, frames, self._parts.object_names
        )
        return map(self._truth.mark, batches)

    def _plan(self, params: Any, **plan: Any) -> ModelRunner:
        """The runner, at the start of a plan; made with the first parameters."""
        if self._runner is None:
            self._runner = _build_runner(self._config, params, self._parts, self._truth)
        self._runner.plan(params, **plan)
        return self._runner

    def _draw(
        self, shown: Sequence[Shown], *, title: str
    ) -> dict[str, UInt8[np.ndarray, "_h _w 3"]]:
        return draw_figures(shown, title=title, source=self._source, parts=self._parts)


def _while_wanted(
    batches: Iterable[Batch], is_unwanted: Callable[[], bool] | None
) -> Iterator[Batch]:
    """The batches; raises Unwanted in place of the next one."""
    for batch in batches:
        if is_unwanted is not None and is_unwanted():
            raise Unwanted
        yield batch


def _settings(config: ml_collections.ConfigDict, source: Source) -> dict[str, Any]:
    """What a number depends on beyond the predictions; kept in the result."""
    settings = config.protocol.to_dict() | {"fingertips": config.evaluate.fingertips}
    settings |= {f"data.{key}": config.data.get(key) for key in INPUT_KEYS}
    if config.data.dataset == "ho3d":
        settings |= {"version": source.version}
    if config.data.dataset == "dexycb":
        settings |= {key: config.data[key] for key in ("filter", "left_hands")}
        settings |= {"frames_left_out": source.excluded()}
    return settings


def extreme_rows(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Rows with the smallest and the largest sum of hand and object errors."""

    ranked = [record["row"] for record in sorted(records, key=report.frame_error)]
    num = min(NUM_EXTREME, len(ranked) // 2)
    return {"best": ranked[:num], "worst": ranked[::-1][:num]} if num else {}


def _build_runner(
    config: ml_collections.ConfigDict,
    params: Any,
    parts: assembly.Parts,
    truth: "HandTruth",
) -> ModelRunner:
    return ModelRunner(
        params,
        model=parts.model,
        mano=parts.mano,
        templates=parts.templates,
        true_hand=truth.hand,
        near_sigma=config.targets.near_sigma,
        has_masking=config.model.mask.enabled,
        seed=config.seed,
        **found_options(config),
    )


def found_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What config.protocol wants predicted, as keyword arguments of ModelRunner.

    Raises:
      UserError: there is no auxiliary head to predict it.
    """
    protocol = config.protocol.to_dict()
    found = tuple(key for key, value in protocol.items() if value == "predicted")
    if found and not config.model.get("auxiliary", False):
        raise UserError(
            f"protocol.{found[0]}=predicted: this model was trained without auxiliary "
            "heads (--config.model.auxiliary=true)"
        )
    is_const = config.data.object_center == "const"
    depth = config.data.object_center_depth if is_const else None
    return {"found": found, "center_depth": depth}


class HandTruth:
    """True hands of a split: a benchmark's own joints and meshes, or MANO's of labels.

    HO-3D's evaluation split has no pose labels, but its truth is published: there,
    hands count as labelled for scores, those of meshes where these are published too.
    """

    def __init__(self, source: Source, parts: assembly.Parts, *, fingertips: str):
        self._source = source
        first = source.ground_truth(0)
        self._is_published = first is not None
        if first is not None and first.vertices is not None:
            _check_fingertips(first, fingertips)
        self._has_pose = source[0]["hand_pose"] is not None
        self._pose = jax.jit(
            lambda batch: posed_hand(batch, parts.mano, fingertips=fingertips)
        )

    def mark(self, batch: Batch) -> Batch:
        """The batch with `has_hand` on where its joints can be scored."""
        if not self._is_published:
            return batch
        return batch._replace(has_hand=np.ones(len(batch.is_real), bool))

    def hand(self, batch: Batch) -> evaluator.TrueHand:
        """What to score a batch against; meaningless where `has_hand` is off."""
        joints, vertices = None, None
        if self._has_pose:
            joints, vertices = map(np.asarray, self._pose(batch))
        rows = [self._source.ground_truth(int(i)) for i in batch.sample_index]
        if all(row is not None and row.vertices is not None for row in rows):
            vertices = np.stack([row.vertices for row in rows]).astype(np.float32)
        return evaluator.TrueHand(joints, vertices)


def _check_fingertips(truth: GroundTruth, fingertips: str) -> None:
    """HO-3D v2 and v3 call other vertices finger tips; only truth with meshes tells."""
    found = fingertips_of(truth.joints, truth.vertices)
    if found not in (None, fingertips):
        raise UserError(
            f"the finger tips of the published joints are the vertices that are named "
            f'"{found}", not evaluate.fingertips="{fingertips}"; set '
            f"--config.evaluate.fingertips={found}"
        )


def posed_hand(
    batch: Batch, mano: ManoModel, *, fingertips: str
) -> tuple[jax.Array, jax.Array]:
    """Joints and vertices of the labelled MANO pose, at the labelled wrist."""
    rotmat = rotations.aa_to_rotmat(jnp.asarray(batch.hand_pose))
    posed = mano_forward(
        mano, rotmat, jnp.asarray(batch.hand_betas), fingertips=fingertips
    )
    shift = jnp.asarray(batch.wrist)[:, None] - posed.joints[:, :1]
    return posed.joints + shift, posed.vertices + shift


def shown_rows(
    frames: np.ndarray, probed: np.ndarray, batch_size: int, num: int
) -> list[int]:
    """Frames to draw, spread over the probed batches."""
    rows = np.concatenate([np.arange(batch_size) + batch_size * b for b in probed])
    rows = rows[rows < len(frames)]
    return frames[rows[spread(num, len(rows))]].tolist()


def fit_trivial(
    config: ml_collections.ConfigDict, parts: assembly.Parts
) -> evaluator.TrivialPredictor:
    """Means over frames of the training split, spread over all of it."""
    source = assembly.build_source(config, config.data.train_split)
    frames = assembly.train_frames(config, len(source))
    frames = frames[spread(TRIVIAL_FRAMES, len(frames))]
    fingertips = config.evaluate.fingertips
    pose = jax.jit(lambda batch: posed_hand(batch, parts.mano, fingertips=fingertips))
    rows = []
    for batch in assembly.build_eval_batches(
        config, source, frames, parts.object_names
    ):
        hand = batch.is_real & batch.has_hand
        obj = batch.is_real & batch.has_object
        wrist = batch.wrist[:, None]
        rows.append(
            (
                (batch.joints - wrist)[hand],
                (np.asarray(pose(batch)[1]) - wrist)[hand],
                batch.object_rotmat[obj],
                (batch.object_trans - batch.wrist)[obj & hand],
            )
        )
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    return evaluator.fit_trivial(*columns)


def draw_figures(
    shown: Sequence[Shown], *, title: str, source: Source, parts: assembly.Parts
) -> dict[str, UInt8[np.ndarray, "_h _w 3"]]:
    """Draws the frames that a runner kept: predictions, reconstructions, sdf."""
    hand_faces = np.asarray(parts.mano.closed_faces)
    rows = [_qualitative_row(each, source, parts) for each in shown]
    drawn = {
        "predictions": figures.qualitative_figure(
            rows, hand_faces, title=f"{title}: prediction and truth"
        ),
        "sdf": _sdf_slices(list(shown[:NUM_SLICED]), source),
    }
    masked = [each for each in shown if each.reconstruction is not None]
    if masked:
        drawn["reconstructions"] = _reconstructions(masked, source)
    return drawn


def _qualitative_row(
    shown: Shown, source: Source, parts: assembly.Parts
) -> figures.QualitativeRow:
    batch, answer = shown.batch, shown.answer
    index = int(batch.object_index)
    template = np.asarray(parts.templates.vertices)[index]
    gt_hand = shown.gt_vertices if batch.has_hand else None
    gt_object = template @ batch.object_rotmat.T + batch.object_trans
    pred_object = template @ answer.object_rotmat.T + answer.object_trans
    return figures.QualitativeRow(
        image=batch.image,
        intrinsics=batch.intrinsics,
        gt=figures.PosedPair(gt_hand, gt_object if batch.has_object else None),
        pred=figures.PosedPair(answer.vertices, pred_object),
        object_faces=np.asarray(parts.templates.faces)[index],
        caption=_caption(shown, source, parts.object_names[index]),
    )


def _caption(shown: Shown, source: Source, object_name: str) -> str:
    """Name, object, errors and what is visible, for the line above a row."""
    batch, answer = shown.batch, shown.answer
    index = int(batch.sample_index)
    words = [source.frame_name(index), object_name]
    if batch.has_hand:
        error = (answer.joints - answer.joints[:1]) - (batch.joints - batch.joints[:1])
        words.append(f"MJE {1e3 * np.linalg.norm(error, axis=-1).mean():.0f} mm")
    if batch.has_object:
        offset = answer.object_trans - batch.object_trans
        words.append(f"OCE {1e3 * np.linalg.norm(offset):.0f} mm")
    info = source.frame_info(index)
    for part in ("hand", "object"):
        if np.isfinite(info[f"{part}_visibility"]):
            words.append(f"{part} seen {100 * info[f'{part}_visibility']:.0f} %")
    return "    ".join(words)


def _reconstructions(shown: Sequence[Shown], source: Source) -> np.ndarray:
    def pictures(field: str) -> list[np.ndarray]:
        return [
            figures.picture_from_normalised(
                getattr(each.reconstruction, field), IMAGE_MEAN, IMAGE_STD
            )
            for each in shown
        ]

    return figures.reconstruction_sheet(
        pictures("clean_image"),
        pictures("masked_image"),
        pictures("image"),
        names=[source.frame_name(int(each.batch.sample_index)) for each in shown],
        title="Masked images and their reconstruction",
    )


def _sdf_slices(shown: Sequence[Shown], source: Source) -> np.ndarray:
    """Crop and slices through the predicted hand and object, facing the camera."""
    rows = []
    for each in shown:
        has_hand = each.batch.has_hand and each.gt_vertices is not None
        has_truth = {"hand": has_hand, "object": each.batch.has_object}
        slices = [
            figures.sdf_slice(
                each.slices[part][0],
                gt_values=each.slices[part][1] if has_truth[part] else None,
                limit=SLICE_LIMIT,
            )
            for part in ("hand", "object")
        ]
        rows.append([each.batch.image, *slices])
    return figures.contact_sheet(
        rows,
        column_titles=("input", "SDF of the hand", "SDF of the object"),
        row_titles=[(source.frame_name(int(s.batch.sample_index)),) for s in shown],
        title="Signed distance: inside warm, surface black, true surface green",
        cell=224,
    )


def write_curves(workdir: Path) -> None:
    """Training curves of the run, where it has any."""
    path = workdir / "metrics.jsonl"
    if path.is_file():
        records = curves.read_metrics(path)
        sheet = curves.training_curves(records, CURVES, title=workdir.name)
        figures.write_png(workdir / "figures" / "curves.png", sheet)
