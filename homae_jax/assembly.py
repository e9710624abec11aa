"""From a configuration to the parts it names: data, hand, objects, model, options.

Part of the entry points (train, evaluate, predict, export): it reads `config`, and
nothing below the entry points imports it. A configuration comes from a file of configs/
or from a checkpoint; the latter is JSON, never code.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from homae_jax import config_checks, config_flags, lifeline, runtime, weights
from homae_jax.data import (
    cache,
    crops,
    dexycb_files,
    ho3d_files,
    pipeline,
    recolour,
)
from homae_jax.data.dexycb import DexYcbSource, HandBasis
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.data.source import Source
from homae_jax.errors import UserError
from homae_jax.hand.mano import ManoModel
from homae_jax.hand.mano_files import left_beside, load_mano
from homae_jax.models.auxiliary import NUM_OBJECTS
from homae_jax.models.dinov2 import load_dinov2
from homae_jax.models.homae import Homae
from homae_jax.objects.templates import load_templates, odd_boxes
from homae_jax.objects.ycb import YCB_NAMES
from homae_jax.schema import Batch, ObjectTemplates
from homae_jax.synthetic import record
from homae_jax.targets import compute_targets
from homae_jax.training import checkpoint, prng

MAX_REASON = 200  # letters of another program's reason, in one error


class DataPaths(NamedTuple):
    """Where a configuration's files lie."""

    root: Path
    models: Path
    mano: Path


class Parts(NamedTuple):
    """What a configuration and its files give, apart from data and parameters."""

    model: Homae
    mano: ManoModel
    templates: ObjectTemplates
    object_names: tuple[str, ...]  # of the templates' rows


def config_to_json(config: ml_collections.ConfigDict) -> str:
    """The whole configuration as JSON, for checkpoints, exports and results."""
    return json.dumps(config.to_dict(), indent=2)


class StoredRun(NamedTuple):
    """A run's folder or an export, of which one step is chosen."""

    folder: Path
    step: int
    config: ml_collections.ConfigDict  # as it was trained; never code
    object_names: tuple[str, ...] = ()  # row by row as trained with; (): not noted


def open_run(folder: str | Path, step: int | None = None) -> StoredRun:
    """Finds a verified checkpoint and the configuration inside it.

    Args:
      step: of the checkpoint; None: the newest.

    Raises:
      UserError: neither a run nor an export, no such step, or damaged files.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a run or an export")
    if weights.is_export(folder):
        export = weights.load_export(folder)
        if step not in (None, export.step):
            raise UserError(f"{folder}: this export is of step {export.step} alone")
        return StoredRun(
            folder, export.step, config_from_json(export.config_json, str(folder))
        )
    step = checkpoint.choose_step(folder, step=step)
    values = checkpoint.read_config(folder, step)
    names = checkpoint.read_object_names(folder, step)
    if len(names) > NUM_OBJECTS:
        raise UserError(
            f"{folder}: its checkpoint names {len(names)} objects, and the network "
            f"tells {NUM_OBJECTS} apart"
        )
    return StoredRun(folder, step, _stored_config(values, str(folder)), names)


def config_from_json(text: str, origin: str) -> ml_collections.ConfigDict:
    """Reads what `config_to_json` wrote; `origin` names it in errors."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{origin}: the stored configuration is no JSON ({error})"
        ) from error
    return _stored_config(values, origin)


def _stored_config(values: Any, origin: str) -> ml_collections.ConfigDict:
    if not isinstance(values, dict) or "model" not in values:
        raise UserError(f"{origin}: holds no configuration of this project")
    values = config_flags.completed(values, origin)
    try:
        return ml_collections.ConfigDict(_with_tuples(values))
    except (AttributeError, ValueError, TypeError) as error:  # an impossible key
        reason = str(error)[:MAX_REASON]  # it may repeat a key of any length
        raise UserError(f"{origin}: the stored configuration: {reason}") from error


def _with_tuples(value: Any) -> Any:
    """Lists back to the tuples that JSON made them from."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    if isinstance(value, list):
        return tuple(_with_tuples(each) for each in value)
    return value


def data_paths(config: ml_collections.ConfigDict) -> DataPaths:
    """Resolves data.root, data.models and data.mano."""
    if not config.data.root:
        raise UserError(
            "data.root is empty: give the data set's folder, for example "
            "--config.data.root=/data/HO3D_v2"
        )
    root = Path(config.data.root).expanduser()
    models, mano = config.data.models, config.data.mano
    return DataPaths(
        root=root,
        models=_models_folder(Path(models).expanduser() if models else root / "models"),
        mano=Path(mano).expanduser() if mano else root / "mano" / "MANO_RIGHT.pkl",
    )


def check_split(config: ml_collections.ConfigDict, split: str) -> None:
    """Raises UserError if the data set has no such split; reads no frame."""
    if config.data.dataset == "dexycb":
        dexycb_files.check_split(split)
    else:
        ho3d_files.read_list(data_paths(config).root, split)


def _models_folder(folder: Path) -> Path:
    """The folder of the models, where it or the one above it is given."""
    inner = folder / "models"
    has_models = any((folder / name).is_dir() for name in YCB_NAMES.values())
    return inner if inner.is_dir() and not has_models else folder


def prepare_data(
    config: ml_collections.ConfigDict, *, may_make: bool = True
) -> DataPaths:
    """Makes the synthetic world at its first use; checks that real data are there.

    Args:
      may_make: False: a synthetic world has to be there too.
    """
    config_checks.check(config)
    paths = data_paths(config)
    if config.data.dataset == "synthetic":
        _check_world(paths.root, config.synthetic, may_make=may_make)
        _make_world(paths.root, config.synthetic)
    for key, path in (
        ("data.root", paths.root),
        ("data.models", paths.models),
        ("data.mano", paths.mano),
    ):
        if not path.exists():
            raise UserError(f"{path}: not found; set --config.{key}=PATH")
    return paths


def _check_world(
    root: Path, settings: ml_collections.ConfigDict, *, may_make: bool
) -> None:
    """Refuses a folder that holds another world; or none, if none is to be made."""
    found = record.read_record(root)
    clash = found.clash(settings.to_dict()) if found else None
    if clash:
        key, value = clash
        raise UserError(
            f"{root}: holds a world with synthetic.{key}={value}, not {settings[key]}: "
            "choose another --config.data.root, or remove the folder"
        )
    if not may_make and not (found and found.is_complete):
        command = " ".join(_synthesize(root, settings)[1:])
        raise UserError(
            f"{root}: no whole synthetic world is there: set --config.data.root=PATH, "
            f"or make it by python {command}"
        )


def _synthesize(root: Path, settings: ml_collections.ConfigDict) -> list[str]:
    """The command that makes a world."""
    command = [sys.executable, "-m", "homae_jax.synthesize", f"--out={root}"]
    return command + [f"--{key}={value}" for key, value in settings.items()]


def _make_world(root: Path, settings: ml_collections.ConfigDict) -> None:
    """Runs `python -m homae_jax.synthesize`, which returns at once when all is there.

    A process of its own: it forks renderers and must not take the accelerator.
    """
    package = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": search,
        lifeline.PARENT: str(os.getpid()),
    }
    done = subprocess.run(
        _synthesize(root, settings),
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise UserError(
            f"{root}: the synthetic world could not be made (see above); "
            "another folder: --config.data.root=PATH"
        )
    print(f"scenes: {root}", flush=True)


def build_mano(config: ml_collections.ConfigDict) -> ManoModel:
    """The right hand, as device arrays."""
    return jax.tree.map(jnp.asarray, load_mano(data_paths(config).mano))


def build_templates(
    config: ml_collections.ConfigDict,
) -> tuple[ObjectTemplates, tuple[str, ...]]:
    """Every YCB object whose model is at hand, with its names in row order."""
    models = data_paths(config).models
    names = [name for name in YCB_NAMES.values() if (models / name).is_dir()]
    if not models.is_dir():
        place = "" if models.is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"{models}: no such folder{place}; set --config.data.root=PATH, or "
            "--config.data.models=PATH"
        )
    if not names:
        raise UserError(
            f"{models}: holds no YCB model (such as 006_mustard_bottle); "
            "set --config.data.models=PATH"
        )
    templates, names = load_templates(
        models, names, cache_dir=runtime.cache_dir() / "templates"
    )
    for name, offset in odd_boxes(names, templates.corners).items():
        print(
            f"warning: {models / name}: its box is {1e3 * offset:.0f} mm off that of "
            "YCB-Video's model, in whose frame HO-3D's and DexYCB's poses are",
            flush=True,
        )
    return jax.tree.map(jnp.asarray, templates), tuple(names)


def check_objects(
    config: ml_collections.ConfigDict, found: Sequence[str], trained: Sequence[str]
) -> None:
    """Raises UserError where the folder of models does not hold those trained with.

    The auxiliary head knows them by their rows, which one more, or one less, moves;
    without it any will do.

    Args:
      found: as `build_templates` names them.
      trained: as the checkpoint names them; (): it does not.
    """
    is_named = config.model.get("auxiliary", False)
    if not is_named or not trained or tuple(found) == tuple(trained):
        return
    added = sorted(set(found) - set(trained))
    lost = sorted(set(trained) - set(found))
    changes = [f"without {', '.join(lost)}"] if lost else []
    changes += [f"with {', '.join(added)}"] if added else []
    raise UserError(
        f"{data_paths(config).models}: not the objects trained with, but "
        f"{' and '.join(changes) or 'in another order'}; give those of the training by "
        "--config.data.models=PATH"
    )


def build_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """The frames of a split, read from the data set's official layout."""
    paths = data_paths(config)
    if config.data.dataset == "dexycb":
        return _dexycb_source(config, paths, split)
    source = Ho3dSource(paths.root, split, cache_dir=runtime.cache_dir() / "index")
    if config.data.dataset == "ho3d" or source.unusable():
        print(source.describe(), flush=True)
    return source


def _dexycb_source(
    config: ml_collections.ConfigDict, paths: DataPaths, split: str
) -> DexYcbSource:
    """Says on the console how many frames are used, and how many others report."""
    left_file = left_beside(paths.mano)
    left = load_mano(left_file, side="left") if left_file else None
    source = DexYcbSource(
        paths.root,
        split,
        right=_hand_basis(load_mano(paths.mano)),
        left=None if left is None else _hand_basis(left),
        filter_name=config.data.filter,
        left_hands=config.data.left_hands,
        models=paths.models,
        cache_dir=runtime.cache_dir() / "index",
    )
    print(source.describe(), flush=True)
    if note := dexycb_files.split_note(paths.root):
        print(note, flush=True)
    return source


def _hand_basis(model: ManoModel) -> HandBasis:
    return HandBasis(
        np.asarray(model.hand_components, np.float64),
        np.asarray(model.hand_mean, np.float64),
    )


def build_model(config: ml_collections.ConfigDict) -> Homae:
    """The network, its `dtype` chosen for this device if the key is "auto".

    Raises:
      UserError: there is no such key of `model`, or some key does not take its value.
    """
    values = config.model.to_dict()
    known = {field.name for field in dataclasses.fields(Homae)} - {"parent", "name"}
    for key in values:
        if key not in known:
            shown = key if key.isidentifier() else repr(key)
            raise UserError(f"model.{shown:.60}: no such key; known: {sorted(known)}")
    config_checks.check(config)
    if values["dtype"] == "auto":
        values["dtype"] = "bfloat16" if runtime.has_bfloat16() else "float32"
    return Homae(
        image_size=config.data.image_size,
        fingertips=config.evaluate.fingertips,
        **values,
    )


def build_parts(config: ml_collections.ConfigDict) -> Parts:
    """The network, the hand and the objects; needs the data prepared."""
    templates, object_names = build_templates(config)
    return Parts(
        model=build_model(config),
        mano=build_mano(config),
        templates=templates,
        object_names=object_names,
    )


def train_frames(config: ml_collections.ConfigDict, num: int) -> np.ndarray:
    """Rows of the training split in use: all, or the first of a seeded shuffle."""
    limit = config.data.max_train_frames
    if not 0 < limit < num:
        return np.arange(num)
    return np.sort(np.random.default_rng(config.seed).permutation(num)[:limit])


def eval_frames(config: ml_collections.ConfigDict, num: int) -> np.ndarray:
    """Rows of the evaluation split in use: all, or some evenly spaced."""
    limit = config.data.max_eval_frames
    if not 0 < limit < num:
        return np.arange(num)
    return np.linspace(0, num - 1, limit).round().astype(int)


def build_train_iterator(
    config: ml_collections.ConfigDict,
    source: Source,
    object_names: Sequence[str],
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Endless augmented batches: this process's share of the global batch."""
    rows = train_frames(config, len(source))
    if config.data.cache:
        source = _cached(config, source, rows)
    return pipeline.train_iterator(
        source,
        rows=rows,
        batch_size=config.train.batch_size // process_count,
        seed=config.seed,
        example_options=example_options(config, object_names),
        augment_options=config.data.augment.to_dict(),
        threads=config.data.threads,
        workers=config.data.workers,
        process_index=process_index,
        process_count=process_count,
        on_bad_sample=config.data.on_bad_sample,
    )


def _cached(
    config: ml_collections.ConfigDict, source: Source, rows: np.ndarray
) -> Source:
    """The source with the frames of the training kept decoded."""
    if config.data.cache == "ram" and config.data.workers:
        raise UserError(
            "data.cache=ram: every one of data.workers would hold a copy; "
            'use data.workers=0 or data.cache="disk"'
        )
    options = {
        "crop": config.data.crop,
        "crop_scale": config.data.crop_scale,
        "image_size": config.data.image_size,
        "augmentation": crops.Augmentation(**config.data.augment.to_dict()),
        "with_scene": config.model.get("auxiliary", False),
    }
    paths = data_paths(config)
    hands = filter(None, (paths.mano, left_beside(paths.mano)))
    labels = (
        paths,
        [config.data[key] for key in ("dataset", "filter", "left_hands")],
    )
    return cache.open_cache(
        source,
        rows,
        kind=config.data.cache,
        window=functools.partial(crops.reachable_window, **options),
        settings=(config.data.train_split, labels, options),
        root=paths.root,
        others=[*hands, *sorted(paths.models.glob("*/points.xyz"))],
        folder=runtime.cache_dir() / "frames",
        threads=config.data.threads,
    )


def build_eval_batches(
    config: ml_collections.ConfigDict,
    source: Source,
    rows: np.ndarray,
    object_names: Sequence[str],
) -> Iterator[Batch]:
    """Rows of a split once, in order, as they are, the last batch padded."""
    return pipeline.eval_batches(
        source,
        rows=rows,
        batch_size=config.evaluate.batch_size,
        example_options=example_options(config, object_names),
        threads=config.data.threads,
    )


def example_options(
    config: ml_collections.ConfigDict, object_names: Sequence[str]
) -> dict[str, Any]:
    """Keyword arguments of data.crops.make_example."""
    keys = (
        "image_size",
        "crop",
        "crop_scale",
        "hand_box_scale",
        "object_box_scale",
        "object_center",
        "object_center_depth",
    )
    return {key: config.data[key] for key in keys} | {
        "object_names": object_names,
        "with_scene": config.model.get("auxiliary", False),
    }


def target_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Keyword arguments of targets.compute_targets, but for the jitter's width."""
    options = config.targets.to_dict()
    options.pop("point_jitter")
    points = config.model.points
    return {
        "fingertips": config.evaluate.fingertips,
        "scale": points.scale,
        "num_hand": points.num_hand,
        "num_object": points.num_object,
        **options,
    }


def colours_on_device(
    config: ml_collections.ConfigDict,
) -> Callable[[jax.Array, Batch], Batch] | None:
    """(key, batch) -> the batch in other colours; None where the loader does it.

    Raises:
      UserError: data.augment.colours_on is neither.
    """
    a = config.data.augment
    crops.check_choice("data.augment.colours_on", a.colours_on, crops.COLOURS_ON)
    if not a.enabled or a.colours_on == "loader":
        return None
    widths = {
        name: a[name]
        for name in ("brightness", "contrast", "saturation", "hue", "blur_px")
    }
    return functools.partial(recolour.recolour_batch, **widths)


def loss_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Keyword arguments of losses.total_loss."""
    return {
        "weights": config.losses.weights.to_dict(),
        "rotation": config.losses.rotation,
        "sdf_clamp": config.targets.sdf_clamp,
        "scale": config.model.points.scale,
    }


def blank_batch(config: ml_collections.ConfigDict, batch_size: int) -> Batch:
    """A batch of the right shapes and types and no content: to trace with."""
    size, num = config.data.image_size, batch_size
    joints = np.zeros((num, 21, 3), np.float32)
    joints[..., 2] = 0.5
    eye = np.tile(np.eye(3, dtype=np.float32), (num, 1, 1))
    box = np.tile(np.array([0, 0, size - 1, size - 1], np.float32), (num, 1))
    return Batch(
        image=np.zeros((num, size, size, 3), np.uint8),
        segmentation=np.zeros((num, size // 2, size // 2), np.uint8),
        intrinsics=eye * np.array([size, size, 1], np.float32)[:, None],
        hand_box_px=box,
        object_box_px=box,
        wrist=joints[:, 0],
        object_center=joints[:, 0],
        joints=joints,
        hand_pose=np.zeros((num, 16, 3), np.float32),
        hand_betas=np.zeros((num, 10), np.float32),
        object_rotmat=eye,
        object_trans=joints[:, 0],
        object_index=np.zeros(num, np.int32),
        has_hand=np.ones(num, bool),
        has_object=np.ones(num, bool),
        has_segmentation=np.ones(num, bool),
        sample_index=np.zeros(num, np.int32),
        is_real=np.ones(num, bool),
    )


def init_params(
    model: Homae,
    config: ml_collections.ConfigDict,
    *,
    mano: ManoModel,
    templates: ObjectTemplates,
    key: jax.Array,
) -> dict[str, Any]:
    """Fresh parameters; `jax.eval_shape` of it gives their shapes without work."""
    target_key, params_key, mask_key, dropout_key = jax.random.split(key, 4)
    batch = jax.tree.map(jnp.asarray, blank_batch(config, 1))
    targets = compute_targets(
        target_key,
        batch,
        mano=mano,
        templates=templates,
        point_jitter=jnp.float32(0.0),
        **target_options(config),
    )
    variables = model.init(
        {"params": params_key, "mask": mask_key, "dropout": dropout_key},
        batch,
        mano,
        targets=targets,
        own_points=False,
        mask_image=True,
        reconstruct=True,
    )
    return variables["params"]


def param_shapes(config: ml_collections.ConfigDict, parts: Parts) -> Any:
    """Shapes and types of the parameters, without any work."""
    fresh = functools.partial(
        init_params, parts.model, config, mano=parts.mano, templates=parts.templates
    )
    return jax.eval_shape(lambda key: fresh(key=key), jax.random.key(0))


def initial_params(config: ml_collections.ConfigDict, parts: Parts) -> dict[str, Any]:
    """Parameters to start from: `train.init_from`, else DINOv2 or fresh ones.

    Says on the console which of them it was.
    """
    if config.train.init_from:
        print(f"parameters of {config.train.init_from}", flush=True)
        return load_params(config.train.init_from, param_shapes(config, parts))

    def fresh(key: jax.Array) -> dict[str, Any]:
        return init_params(
            parts.model, config, mano=parts.mano, templates=parts.templates, key=key
        )

    loaded, encoder = {}, config.model.encoder
    if encoder.weights:  # before anything is compiled: the file may not fit
        loaded["vit"] = _load_encoder(config)
    print(
        f"encoder {encoder.variant}: {encoder.weights or 'trained from scratch'}",
        flush=True,
    )
    return jax.jit(fresh)(prng.make_key(config.seed)) | loaded


def _load_encoder(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the file of model.encoder.weights holds."""
    encoder = config.model.encoder
    try:
        return load_dinov2(
            encoder.weights, variant=encoder.variant, image_size=config.data.image_size
        )
    except UserError as error:
        raise UserError(f"--config.model.encoder.weights: {error}") from error


def stored_params(run: StoredRun) -> Any:
    """Parameters as they were saved, whatever the model.

    Raises:
      UserError: `run` is an export already.
    """
    if weights.is_export(run.folder):
        raise UserError(f"{run.folder}: is an export already; copy the folder")
    folder = run.folder.absolute() / checkpoint.FOLDER / str(run.step)
    with ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(folder / checkpoint.STATE)
    stored = metadata.item_metadata.tree["params"]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)
    return checkpoint.restore_params(run.folder, run.step, shapes)


def load_params(folder: str | Path, wanted: Any, step: int | None = None) -> Any:
    """Parameters of an export, or of a run's checkpoint (None: the newest).

    Raises:
      UserError: they are of another model than `wanted`, a tree of shapes.
    """
    if weights.is_export(folder):
        return weights.load_export(folder, wanted).params
    step = checkpoint.choose_step(folder, step=step)
    return checkpoint.restore_params(folder, step, wanted)
