"""Hand and object in 3D from your own picture, folder of pictures, or video.

Examples:

  # one picture: everything is found by the network
  python -m homae_jax.predict --input=photo.jpg --out=out

  # what you know makes the answer better: camera (px), object, boxes, wrist (metres)
  python -m homae_jax.predict --checkpoint=DIR --input=photo.jpg --out=out \\
      --K=615.2,614.8,320.1,241.5 --object=006_mustard_bottle \\
      --hand_box=210,150,420,330 --root=0.02,-0.01,0.52

  # a left hand with an object of your own; a folder; a video, calmed
  python -m homae_jax.predict --checkpoint=DIR --input=photo.jpg --out=out \\
      --left --object=cup.obj
  python -m homae_jax.predict --checkpoint=DIR --input=pictures/ --out=out
  python -m homae_jax.predict --checkpoint=DIR --input=clip.mp4 --smooth --out=out

Without --K the focal length comes from --fov, else from the picture's EXIF, else 60
degrees along the longer side are assumed; then is_metric is false in the result and
only shape, pose and directions are to be trusted, not distances. A checkpoint trained
without --config.model.auxiliary=true needs --hand_box, --object_box and --root.

Written for a picture: prediction.json (camera frame, metres), overlay.png, front.png,
side.png, reconstruction.png, sdf.png, sheet.png (all on one page), meshes.glb and
meshes.obj. A folder has these in one folder per picture and index.html: one file that
opens in any browser, sorted by error or occlusion, with meshes that turn with the
mouse. A file photo.json beside photo.jpg may hold its own K, fov, hand_box,
object_box, root, object, left, and joints_cam to be compared with; clip.json beside
clip.mp4 likewise, for all frames. A flag comes before what is noted. A video gives
overlay.mp4 and predictions.jsonl, a line for each frame.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from homae_jax import config_flags, progress, runtime
from homae_jax.errors import UserError

FLAGS = flags.FlagValues()
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A training run or an export; default: the one that ships.",
    flag_values=FLAGS,
)
_RESTORE_STEP = flags.DEFINE_integer(
    "restore_step",
    None,
    "Checkpoint of the run; default: the newest.",
    flag_values=FLAGS,
)
_INPUT = flags.DEFINE_string(
    "input", None, "A picture, a folder of them, or a video.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", flag_values=FLAGS)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace earlier results in --out.", flag_values=FLAGS
)
_K = flags.DEFINE_list(
    "K", None, "Camera: fx,fy,cx,cy in pixels, or nine numbers.", flag_values=FLAGS
)
_FOV = flags.DEFINE_float(
    "fov", None, "Field of view along the longer side, degrees.", flag_values=FLAGS
)
_HAND_BOX = flags.DEFINE_list(
    "hand_box", None, "x0,y0,x1,y1 of the hand, pixels.", flag_values=FLAGS
)
_OBJECT_BOX = flags.DEFINE_list(
    "object_box", None, "The same of the object.", flag_values=FLAGS
)
_ROOT = flags.DEFINE_list(
    "root", None, "The wrist: x,y,z in the camera, metres.", flag_values=FLAGS
)
_OBJECT = flags.DEFINE_string(
    "object",
    None,
    "Name of a known object, or a mesh (.obj, .ply, .glb), metres.",
    flag_values=FLAGS,
)
_LEFT = flags.DEFINE_bool("left", False, "The hand is a left one.", flag_values=FLAGS)
_MANO = flags.DEFINE_string(
    "mano", None, "MANO_RIGHT.pkl; default: the run's.", flag_values=FLAGS
)
_MODELS = flags.DEFINE_string(
    "models",
    None,
    "Folder of object models; default: the run's.",
    flag_values=FLAGS,
)
_SKELETON = flags.DEFINE_bool(
    "skeleton", False, "Draw bones and joints as well.", flag_values=FLAGS
)
_DETAILS = flags.DEFINE_bool(
    "details", True, "Also reconstruction and SDF slices.", flag_values=FLAGS
)
_SMOOTH = flags.DEFINE_bool(
    "smooth", False, "Videos: One-Euro filter over time.", flag_values=FLAGS
)

GROUPS = {
    "What to answer": ("input", "out", "overwrite"),
    "What you know of the picture": (
        "K",
        "fov",
        "hand_box",
        "object_box",
        "root",
        "object",
        "left",
    ),
    "Whose answer": ("checkpoint", "restore_step", "mano", "models"),
    "What to draw": ("skeleton", "details", "smooth"),
}


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    for flag in (_INPUT, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name}=PATH is missing (--help has examples)")
    source, out = Path(_INPUT.value).expanduser(), Path(_OUT.value).expanduser()
    if not source.exists():
        raise UserError(f"{source}: no such picture, folder or video")
    given = _given()
    runtime.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    from homae_jax import prediction_files
    from homae_jax.predictor import Predictor

    prediction_files.check_free(source, out, given, overwrite=_OVERWRITE.value)
    runtime.keep_memory()
    predict = Predictor(
        _CHECKPOINT.value,
        step=_RESTORE_STEP.value,
        mano=_MANO.value,
        models=_MODELS.value,
    )
    progress.notice("the first picture compiles the network; later starts keep it")
    draw = {"skeleton": _SKELETON.value, "details": _DETAILS.value}
    if source.is_dir():
        prediction_files.predict_folder(predict, source, out, given, **draw)
    elif prediction_files.is_video(source):
        prediction_files.predict_video(
            predict, source, out, given, smooth=_SMOOTH.value, **draw
        )
    else:
        prediction_files.predict_picture(predict, source, out, given, **draw)
    return 0


def _given() -> dict[str, object]:
    """What the flags say, under the names that a photo.json uses."""
    values = {
        "K": _numbers(_K, (4, 9)),
        "fov": _FOV.value,
        "hand_box": _numbers(_HAND_BOX, (4,)),
        "object_box": _numbers(_OBJECT_BOX, (4,)),
        "root": _numbers(_ROOT, (3,)),
        "object": _OBJECT.value,
        "left": _LEFT.value or None,
    }
    if _K.value and _FOV.value:
        raise UserError("give --K or --fov, not both")
    return {key: value for key, value in values.items() if value is not None}


def _numbers(flag: flags.FlagHolder, counts: Sequence[int]) -> list[float] | None:
    if flag.value is None:
        return None
    try:
        numbers = [float(word) for word in flag.value]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        wanted = " or ".join(map(str, counts))
        raise UserError(
            f"--{flag.name}={','.join(flag.value)}: give {wanted} numbers with commas"
        )
    return numbers


if __name__ == "__main__":
    config_flags.run(main, FLAGS, GROUPS, takes_config=False)
