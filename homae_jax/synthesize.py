"""Makes a world of hands and objects to learn from, in a public data set's layout.

Examples:

  # 2,000 training and 400 evaluation frames in the layout of HO-3D v2
  python -m homae_jax.synthesize --out=/data/synthetic --num_train=2000 --num_eval=400

  # easier to learn from: cameras within 30 degrees of the mean view, JPEG pictures
  python -m homae_jax.synthesize --out=/data/cone --num_train=2000 --num_eval=400 \\
      --view_cone_deg=30 --image_format=jpg

  # evaluate on objects and people that training never shows
  python -m homae_jax.synthesize --out=/data/unseen --num_train=9000 --num_eval=900 \\
      --unseen

  # real YCB models (<name>/textured_simple.obj), which you have to download yourself
  python -m homae_jax.synthesize --out=/data/ycb --num_train=9000 --num_eval=900 \\
      --models=/data/YCB_Video_Models/models

An interrupted run goes on when the same command is given again; a finished one returns
at once. The same seed gives the same labels, whatever the number of workers. Nothing
made here derives from MANO, HO-3D or YCB files, unless --models names some.
"""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from homae_jax import command_line, config_flags, lifeline, runtime
from homae_jax.errors import UserError
from homae_jax.objects.ycb import YCB_NAMES
from homae_jax.progress import progress_bar
from homae_jax.synthetic import layouts, production, record, scenes, writers

LAYOUTS = tuple(layouts.WRITERS)
OBJECTS = ("all", "ho3d")
GRIPS = ("any", "above")
MODEL_FILES = ("textured_simple.*", "texture_map.*", "points.xyz")

FLAGS = flags.FlagValues()
_OUT = flags.DEFINE_string(
    "out", None, "Folder to write; made if absent.", flag_values=FLAGS
)
_LAYOUT = flags.DEFINE_enum(
    "layout", "ho3d", LAYOUTS, "Whose layout to write.", flag_values=FLAGS
)
_NUM_TRAIN = flags.DEFINE_integer(
    "num_train", 2000, "Training frames.", 0, flag_values=FLAGS
)
_NUM_EVAL = flags.DEFINE_integer(
    "num_eval", 400, "Evaluation frames.", 0, flag_values=FLAGS
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of everything random.", 0, flag_values=FLAGS
)
_MODELS = flags.DEFINE_string(
    "models",
    None,
    "Real YCB models, <name>/textured_simple.obj; else procedural ones.",
    flag_values=FLAGS,
)
_OBJECTS = flags.DEFINE_enum(
    "objects",
    "all",
    OBJECTS,
    "Objects in training: all 20, or HO-3D's nine.",
    flag_values=FLAGS,
)
_UNSEEN = flags.DEFINE_bool(
    "unseen",
    False,
    "No object and no person of the evaluation shows in training.",
    flag_values=FLAGS,
)
_VIEW_CONE_DEG = flags.DEFINE_float(
    "view_cone_deg",
    180.0,
    "Cameras stand within this angle of the mean view; 180: anywhere on the sphere.",
    lower_bound=0.0,
    upper_bound=180.0,
    flag_values=FLAGS,
)
_ROLL_DEG = flags.DEFINE_float(
    "roll_deg",
    15.0,
    "In-plane rotation, uniform within +- this.",
    0.0,
    180.0,
    flag_values=FLAGS,
)
_HEAVY_SHARE = flags.DEFINE_float(
    "heavy_share",
    0.3,
    "Share of frames in which less than 0.6 of the hand or of the object is visible.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
_VIEWS_PER_GRASP = flags.DEFINE_integer(
    "views_per_grasp",
    8,
    "Pictures taken of each grasp; fewer is slower.",
    1,
    flag_values=FLAGS,
)
_GRIP_SPREAD = flags.DEFINE_float(
    "grip_spread",
    1.0,
    "How objects are held: 0, at their middle, in the palm; 1, anywhere, any way.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
_GRIPS = flags.DEFINE_enum(
    "grips",
    "any",
    GRIPS,
    "Which way objects lie in the hand: any; or hung from above, upright, as lifted "
    "off a table.",
    flag_values=FLAGS,
)
_IMAGE_FORMAT = flags.DEFINE_enum(
    "image_format",
    "png",
    writers.IMAGE_FORMATS,
    "png as HO-3D v2; jpg as v3, smaller and faster.",
    flag_values=FLAGS,
)
_RENDERER = flags.DEFINE_enum(
    "renderer",
    "auto",
    ("auto", "gl", "cpu"),
    "auto: OpenGL if EGL works, else numpy.",
    flag_values=FLAGS,
)
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Render processes; 0: none but this; default: one per core.",
    0,
    flag_values=FLAGS,
)

GROUPS = {
    "What there is": (
        *("num_train", "num_eval", "objects", "unseen", "models"),
        *("views_per_grasp", "grips", "grip_spread"),
    ),
    "How it is seen": ("view_cone_deg", "roll_deg", "heavy_share"),
    "What is written": ("out", "layout", "image_format"),
    "How it runs": ("seed", "workers", "renderer"),
}


def synthesize(
    out: str | os.PathLike,
    num_train: int,
    num_eval: int,
    seed: int = 0,
    *,
    layout: str = "ho3d",
    models: str | None = None,
    objects: str = "all",
    unseen: bool = False,
    views_per_grasp: int = 8,
    view_cone_deg: float = 180.0,
    roll_deg: float = 15.0,
    heavy_share: float = 0.3,
    grips: str = "any",
    grip_spread: float = 1.0,
    image_format: str = "png",
    renderer: str = "auto",
    workers: int | None = None,
) -> Path:
    """Makes the data set, or what is missing of it; returns its folder.

    The flags of this module say what the arguments mean.

    Raises:
      UserError: the folder holds something else, or a setting makes no sense.
    """
    root = Path(out).expanduser().resolve()
    settings = {
        "layout": layout,
        "num_train": num_train,
        "num_eval": num_eval,
        "seed": seed,
        "models": str(Path(models).expanduser().resolve()) if models else None,
        "objects": objects,
        "unseen": unseen,
        "views_per_grasp": views_per_grasp,
        "view_cone_deg": float(view_cone_deg),
        "roll_deg": float(roll_deg),
        "heavy_share": float(heavy_share),
        "grips": grips,
        "grip_spread": float(grip_spread),
        "image_format": image_format,
    }
    _check_settings(settings)
    world = root / record.WORK
    if _is_complete(root, settings):
        return root
    if not record.is_planned(root):
        _prepare(root, world, settings, renderer)
    clips = production.load_clips(world)
    writer = layouts.WRITERS[layout](root, image_format=image_format)
    writer.make_folders(clips)
    _produce(world, clips, _default_workers() if workers is None else workers)
    records = production.read_records(world, clips)
    writer.write_lists(clips, records)
    shares = _heavy_shares(clips, records)
    record.write_record(
        root, settings, is_complete=True, share_of_heavy_occlusion=shares
    )
    shutil.rmtree(world)
    return root


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuses what the flags would refuse, for those who call `synthesize`."""
    for name, choices in (
        ("layout", LAYOUTS),
        ("objects", OBJECTS),
        ("grips", GRIPS),
        ("image_format", writers.IMAGE_FORMATS),
    ):
        if settings[name] not in choices:
            raise UserError(f"{name} {settings[name]!r}: use {' or '.join(choices)}")
    for name, high in (
        ("view_cone_deg", 180),
        ("roll_deg", 180),
        ("heavy_share", 1),
        ("grip_spread", 1),
    ):
        if not 0 <= settings[name] <= high:
            raise UserError(f"{name} {settings[name]}: use a number from 0 to {high}")
    if min(settings["num_train"], settings["num_eval"], settings["seed"]) < 0:
        raise UserError("num_train, num_eval and seed must not be negative")
    if settings["views_per_grasp"] < 1:
        raise UserError("views_per_grasp must be at least 1")
    if settings["num_train"] + settings["num_eval"] < 1:
        raise UserError("num_train and num_eval are both 0: nothing to make")


def _is_complete(root: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds just this, finished; claims it if it is free.

    A run that ended before anything was drawn leaves its folder free.
    """
    found = record.read_record(root)
    if found:
        clash = found.clash(settings)
        if clash:
            key, value = clash
            raise UserError(
                f"{root}: holds a world with {key}={value}, not {settings[key]}; "
                "choose another --out or remove the folder"
            )
        if found.is_begun:
            return found.is_complete
        for name in ("models", "mano", record.WORK):
            shutil.rmtree(root / name, ignore_errors=True)
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"{root}: is not empty and no synthetic world; choose another --out"
        )
    root.mkdir(parents=True, exist_ok=True)
    record.write_record(root, settings, is_complete=False)
    return False


def _prepare(root: Path, world: Path, settings: dict[str, Any], renderer: str) -> None:
    """Makes hand, models, plan and grasps: all that needs JAX."""
    models_dir = root / "models"
    _say("objects")
    if settings["models"]:
        _copy_models(Path(settings["models"]), models_dir)
    else:
        from homae_jax.synthetic.object_models import write_object_models

        write_object_models(models_dir)
    names = sorted(p.parent.name for p in models_dir.glob("*/textured_simple.obj"))
    clips = layouts.PLANS[settings["layout"]](
        settings["num_train"],
        settings["num_eval"],
        object_names=names,
        objects=settings["objects"],
        unseen=settings["unseen"],
        views_per_grasp=settings["views_per_grasp"],
    )
    _say("hand")
    hand_model = _write_hand(root / "mano")
    mano_file = root / "mano" / "MANO_RIGHT.pkl"
    grasps = _make_grasps(
        mano_file,
        models_dir,
        clips,
        seed=settings["seed"],
        spread=settings["grip_spread"],
        grips=settings["grips"],
    )
    options = {key: settings[key] for key in scenes.SceneOptions._fields}
    production.save_world(
        world,
        root=root,
        models_dir=models_dir,
        hand=_hand_shape(hand_model),
        grasps=grasps,
        clips=clips,
        clutter_names=_clutter_names(clips, is_shared=not settings["unseen"]),
        options=scenes.SceneOptions(**options),
        layout=settings["layout"],
        image_format=settings["image_format"],
        renderer=renderer,
    )


def _copy_models(source: Path, target: Path) -> None:
    """Copies what readers need of every model in a folder of YCB models."""
    if not source.is_dir():
        raise UserError(f"--models={source}: no such folder")
    objs = sorted(source.glob("*/textured_simple.obj"))
    known = [obj for obj in objs if obj.parent.name in YCB_NAMES.values()]
    if not known:
        raise UserError(
            f"--models={source}: holds no <name>/textured_simple.obj with a YCB name "
            "such as 003_cracker_box"
        )
    for obj in known:
        folder = target / obj.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in MODEL_FILES:
            for file in obj.parent.glob(pattern):
                shutil.copyfile(file, folder / file.name)


def _write_hand(folder: Path) -> dict[str, Any]:
    """Makes the hand and writes it as MANO_RIGHT.pkl, mirrored as MANO_LEFT.pkl."""
    from homae_jax.hand.mano_files import write_mano_pkl
    from homae_jax.synthetic.hand_model import build_hand, mirror_hand

    model = build_hand()
    folder.mkdir(parents=True, exist_ok=True)
    write_mano_pkl(model, folder / "MANO_RIGHT.pkl")
    write_mano_pkl(mirror_hand(model), folder / "MANO_LEFT.pkl")
    return model


def _hand_shape(model: dict[str, Any]) -> scenes.HandShape:
    from homae_jax.hand.mano import FINGERTIPS
    from homae_jax.hand.mano_files import WRIST_LOOP, close_wrist

    thumb, index, middle, ring, little = FINGERTIPS["smplx"]
    return scenes.HandShape(
        template_vertices=np.asarray(model["v_template"], np.float64),
        closed_faces=close_wrist(np.asarray(model["f"], np.int32)),
        joints=np.asarray(model["J"], np.float64),
        tip_ids=np.array([index, middle, little, ring, thumb]),
        wrist_loop=np.array(WRIST_LOOP),
    )


def _make_grasps(
    mano_file: Path,
    models_dir: Path,
    clips: Sequence[scenes.Clip],
    *,
    seed: int,
    spread: float,
    grips: str,
) -> scenes.Grasps:
    """A grasp for every row that the clips name, with their people's hand shapes."""
    from homae_jax.hand.mano_files import load_mano
    from homae_jax.objects.templates import load_templates
    from homae_jax.synthetic.grasps import synthesize_grasps

    wanted = {
        row: (clip.object_name, clip.subject) for clip in clips for row in clip.grasps
    }
    rows = [wanted[row] for row in range(len(wanted))]
    names = sorted({name for name, _ in rows})
    templates, _ = load_templates(
        models_dir, names, cache_dir=runtime.cache_dir() / "templates"
    )
    found = synthesize_grasps(
        seed,
        np.array([names.index(name) for name, _ in rows], np.int32),
        np.array([scenes.sample_betas(seed, who) for _, who in rows], np.float32),
        templates=templates,
        mano=load_mano(mano_file),
        spread=spread,
        grips=grips,
    )
    kept = {name: getattr(found, name) for name in scenes.Grasps._fields}
    return scenes.Grasps(**kept)


def _clutter_names(
    clips: Sequence[scenes.Clip], *, is_shared: bool
) -> dict[str, tuple[str, ...]]:
    """What may lie about: in training, nothing that only the evaluation holds."""
    held = {
        split: {clip.object_name for clip in clips if clip.split == split}
        for split in ("train", "evaluation")
    }
    if is_shared:
        held["evaluation"] |= held["train"]
    return {split: tuple(sorted(names)) for split, names in held.items()}


def _produce(world: Path, clips: Sequence[scenes.Clip], workers: int) -> None:
    """Draws the backgrounds, then the frames that are still missing."""
    backgrounds = {
        split: int(np.clip(num // 8, 4, 64))
        for split in ("train", "evaluation")
        if (num := sum(len(c.numbers) for c in clips if c.split == split))
    }
    with production.Crew(world, workers) as crew:
        todo = production.missing_backgrounds(world, backgrounds)
        for _ in progress_bar(crew.run(todo), total=len(todo), desc="backgrounds"):
            pass
        todo = production.missing_frames(world, clips)
        frames = (
            frame
            for chunk in crew.run(todo)
            for frame in range(chunk.start, chunk.stop)
        )
        total = sum(chunk.stop - chunk.start for chunk in todo)
        for _ in progress_bar(frames, total=total, desc="frames"):
            pass


def _heavy_shares(
    clips: Sequence[scenes.Clip], records: Sequence[dict[str, np.ndarray]]
) -> dict[str, float]:
    """Per split, the share of frames that came out heavily occluded."""
    least = {"train": [], "evaluation": []}
    for clip, kept in zip(clips, records, strict=True):
        least[clip.split] += kept["visibility"].min(axis=1).tolist()
    return {
        split: round(float(np.mean(np.array(values) < scenes.HEAVY_BELOW)), 4)
        for split, values in least.items()
        if values
    }


def _default_workers() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _say(text: str) -> None:
    print(f"synthesize: {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    lifeline.end_with_starter()
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    if not _OUT.value:
        raise UserError("--out=DIR is missing: the folder to write")
    try:
        root = synthesize(
            _OUT.value,
            _NUM_TRAIN.value,
            _NUM_EVAL.value,
            _SEED.value,
            layout=_LAYOUT.value,
            models=_MODELS.value,
            objects=_OBJECTS.value,
            unseen=_UNSEEN.value,
            views_per_grasp=_VIEWS_PER_GRASP.value,
            view_cone_deg=_VIEW_CONE_DEG.value,
            roll_deg=_ROLL_DEG.value,
            heavy_share=_HEAVY_SHARE.value,
            grips=_GRIPS.value,
            grip_spread=_GRIP_SPREAD.value,
            image_format=_IMAGE_FORMAT.value,
            renderer=_RENDERER.value,
            workers=_WORKERS.value,
        )
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return command_line.EXIT_INTERRUPTED
    print(root)
    return 0


if __name__ == "__main__":
    config_flags.run(main, FLAGS, GROUPS, takes_config=False)
