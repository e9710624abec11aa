"""What `predict` reads and writes: pictures, side notes, results, pages, videos.

Part of the entry point predict. JSON keeps the names and frames of
`predictor.Prediction`: ``_cam`` is the OpenCV camera frame in metres, ``_px`` are
pixels of the picture.
"""

import collections
import itertools
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from homae_jax.data import photos
from homae_jax.errors import UserError
from homae_jax.geometry import smoothing
from homae_jax.predictor import (
    SURE_FROM,
    UNNAMED,
    ObjectShape,
    Prediction,
    Predictor,
    mirrored_pose,
)
from homae_jax.progress import progress_bar
from homae_jax.viz import figures, gallery, mesh_export, overlay, prediction_views
from homae_jax.whole_file import replacing

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
MESHES = (".obj", ".ply", ".glb", ".stl", ".off")
NOTES = ("K", "fov", "hand_box", "object_box", "root", "object", "left", "joints_cam")
RESULT, PAGE, LINES, CLIP = (
    "prediction.json",
    "index.html",
    "predictions.jsonl",
    "overlay.mp4",
)
MAX_MESH_BYTES = 256 * 2**20
MESH_SIZES = (5e-3, 2.0)  # metres, that an object in a hand may have
MAX_NOTE_BYTES = 2**20
FILES = (  # of a picture, by what is asked for
    *(RESULT, "overlay.png", "front.png", "side.png", "sheet.png"),
    *("reconstruction.png", "sdf.png"),
    *(f"meshes{ending}" for ending in mesh_export.FORMATS),
)
FFMPEG_QUIET = "-8"  # of its log levels: what is wrong we say ourselves
CODEC = "vp09"  # plays in browsers, and OpenCV's wheels can write it
FORMAT = "homae_jax prediction"
BELIEF_SECONDS = 2.0  # over which frames of a video agree on the object
JSON_FIELDS = (  # of Prediction, in the order of the file
    "is_metric",
    "camera_source",
    "predicted_inputs",
    "is_left",
    "picture_intrinsics",
    "joints_cam",
    "wrist_cam",
    "hand_pose_aa",
    "hand_betas",
    "cam_T_obj",
    "object_scores",
    "hand_box_px",
    "object_box_px",
    "crop_affine",
    "crop_intrinsics",
    "vertices_cam",
    "hand_points_cam",
    "hand_points_sdf",
    "object_points_cam",
    "object_points_sdf",
)
LINE_FIELDS = JSON_FIELDS[:13]  # of a video's frame: without meshes and points


class Answered(NamedTuple):
    """A picture's result and what is said of it."""

    name: str
    result: Prediction
    shares: prediction_views.Shares
    error_mm: float | None  # mean joint error, wrist-aligned; None without a truth
    views: Mapping[str, np.ndarray]


def check_free(
    source: Path, out: Path, given: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Makes the folder; refuses to write over what is there, or into a file.

    Args:
      source: picture, folder or video; never written over, `overwrite` or not.
      given: flags; a mesh among them is not written over either.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out wants a folder")
    inputs = [source]
    if source.is_dir():
        inputs = photos.list_pictures(source)
        names = folder_names(inputs, out).values()
        planned = [PAGE, *(f"{name}/{file}" for name in names for file in FILES)]
    else:
        planned = [LINES, CLIP] if is_video(source) else FILES
    inputs.append(Path(str(given.get("object", ""))))
    for path in filter(Path.exists, (out / name for name in planned)):
        if any(each.is_file() and path.samefile(each) for each in inputs):
            raise UserError(f"{path}: is what is asked about; choose another --out")
        if not overwrite:
            raise UserError(f"{path}: exists; add --overwrite to replace it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror})") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: may not be written to; choose another --out")


def is_video(path: Path) -> bool:
    """By its ending."""
    return path.suffix.lower() in VIDEOS


def predict_picture(
    predict: Predictor,
    path: Path,
    out: Path,
    given: Mapping[str, Any],
    *,
    skeleton: bool,
    details: bool,
) -> Answered:
    """Answers one picture, writes everything about it and says it in a few lines."""
    answered = _answer_file(predict, path, given, skeleton=skeleton, details=details)
    write_answer(answered, out)
    print(describe(answered))
    print(f"-> {out}")
    return answered


def predict_folder(
    predict: Predictor,
    folder: Path,
    out: Path,
    given: Mapping[str, Any],
    *,
    skeleton: bool,
    details: bool,
) -> None:
    """Answers every picture of a folder; those that fail are named and left out.

    Interrupted, it leaves the page of what it has come to.

    Raises:
      UserError: none can be answered, or one K is given for pictures of two sizes.
    """
    paths = photos.list_pictures(folder)
    names = folder_names(paths, out)
    if "K" in given and len(sizes := photos.sizes(paths)) > 1:
        first, second = (
            f"{path.name} ({width} x {height})"
            for (width, height), path in list(sizes.items())[:2]
        )
        raise UserError(
            f"K: is that of one size of picture, and {first} and {second} differ; "
            "write each one's in a .json beside it"
        )
    entries, failed = [], []
    try:
        for path in progress_bar(paths, total=len(paths), desc="pictures"):
            try:
                answered = _answer_file(
                    predict, path, given, skeleton=skeleton, details=details
                )
            except UserError as error:
                said = str(error)
                failed.append(said if path.name in said else f"{path.name}: {said}")
                continue
            write_answer(answered, out / names[path])
            entries.append(_entry(answered, names[path]))
    finally:
        if entries:
            gallery.write_gallery(out / PAGE, entries, title=folder.resolve().name)
    for error in failed:
        print(f"left out: {error}")
    if not entries:
        raise UserError(f"{folder}: no picture could be answered (see above)")
    print(f"{len(entries)} of {len(paths)} pictures -> {out / PAGE}")
    others = photos.other_files(folder)
    if others:
        listed = ", ".join(others[:3])
        print(f"passed over, no pictures by their names: {len(others)} ({listed})")


def folder_names(paths: Sequence[Path], out: Path) -> dict[Path, str]:
    """A folder of `out` for each picture.

    photo.jpg's is photo; beside photo.png it is photo_jpg, or photo_jpg_2 where that
    is another's or a file, in file systems too that take A for a.
    """
    stems = collections.Counter(path.stem.casefold() for path in paths)
    is_alone = {path: stems[path.stem.casefold()] == 1 for path in paths}
    names, taken = {}, set()
    for path in sorted(paths, key=is_alone.get, reverse=True):
        wanted = path.stem if is_alone[path] else path.name.replace(".", "_")
        numbered = (f"{wanted}_{number}" for number in itertools.count(2))
        for name in itertools.chain([wanted], numbered):
            if name.casefold() not in taken and not (out / name).is_file():
                break
        taken.add(name.casefold())
        names[path] = name
    return names


def _answer_file(
    predict: Predictor,
    path: Path,
    given: Mapping[str, Any],
    *,
    skeleton: bool,
    details: bool,
) -> Answered:
    photo = photos.read_photo(path)
    notes = _notes_of(path, given)
    result = predict(photo.image, **to_keywords(notes), focal_35mm=photo.focal_35mm)
    scene = scene_of(result)
    masks = {"hand": result.hand_mask, "object": result.object_mask}
    side = result.crop.shape[0]
    return Answered(
        path.name,
        result,
        prediction_views.measure(scene, result.crop_intrinsics, side, masks),
        _error_mm(result, notes.get("joints_cam")),
        _draw(predict, photo.image, result, scene, skeleton, details),
    )


def scene_of(result: Prediction) -> prediction_views.Posed:
    """A result's meshes, to draw."""
    shape = result.object_shape
    return prediction_views.posed(
        result.vertices_cam,
        result.hand_faces,
        result.joints_cam,
        result.object_vertices_cam,
        None if shape is None else shape.faces,
    )


def _draw(
    predict: Predictor,
    image: np.ndarray,
    result: Prediction,
    scene: prediction_views.Posed,
    skeleton: bool,
    details: bool,
) -> dict[str, np.ndarray]:
    picture, intrinsics = prediction_views.fit_picture(image, result.picture_intrinsics)
    views = {
        "input": result.crop,
        "overlay": prediction_views.draw_overlay(
            picture, scene, intrinsics, skeleton=skeleton
        ),
        "close-up": _draw_close_up(result, scene, skeleton),
        "front": prediction_views.draw_view(scene, 0.0),
        "side": prediction_views.draw_view(scene, 90.0),
    }
    if not details:
        return views
    seen = predict.inspect(result)
    if seen.reconstruction is not None:
        views |= {"masked": seen.masked, "reconstruction": seen.reconstruction}
    slices = {f"SDF of the {part}": values for part, values in seen.sdf.items()}
    return views | {
        name: prediction_views.draw_slice(values) for name, values in slices.items()
    }


def _draw_close_up(
    result: Prediction, scene: prediction_views.Posed, skeleton: bool
) -> np.ndarray:
    """The overlay on the crop, large enough to be looked at."""
    crop, intrinsics = overlay.enlarge(
        result.crop, result.crop_intrinsics, prediction_views.SHEET_CELL
    )
    return prediction_views.draw_overlay(crop, scene, intrinsics, skeleton=skeleton)


def _files_of(views: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures by file name; triples (HOMAE Fig. 3) and slices side by side."""
    files = {name: views[name] for name in ("overlay", "front", "side")}
    triple = ("input", "masked", "reconstruction")
    if set(triple) <= set(views):
        files["reconstruction"] = prediction_views.draw_strip(
            {name: views[name] for name in triple}
        )
    slices = {name: view for name, view in views.items() if name.startswith("SDF")}
    if slices:
        files["sdf"] = prediction_views.draw_strip(slices)
    return files


def _notes_of(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags say of a picture or video, else what is noted beside it."""
    notes = read_notes(path.with_suffix(".json"))
    if "fov" in given:
        notes.pop("K", None)  # which would be preferred to it
    return notes | dict(given)


def read_notes(path: Path) -> dict[str, Any]:
    """What photo.json says of photo.jpg; {} if there is none.

    Raises:
      UserError: no JSON object, or a key that means nothing.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            notes = json.loads(file.read(MAX_NOTE_BYTES))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(notes, dict):
        raise UserError(f"{path}: wants an object with keys such as {', '.join(NOTES)}")
    for key in notes:
        if key not in NOTES:
            raise UserError(f"{path}: no such key {key!r}; known: {', '.join(NOTES)}")
    return notes


def to_keywords(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Flags and side notes as keyword arguments of Predictor.

    Raises:
      UserError: numbers that are none, or of the wrong count.
    """
    is_left = notes.get("left") or False
    if not isinstance(is_left, bool):
        raise UserError(f"left: wants true or false, got {is_left!r:.80}")
    keywords: dict[str, Any] = {"is_left": is_left}
    names = {
        "hand_box": ("hand_box_px", (4,)),
        "object_box": ("object_box_px", (4,)),
        "root": ("wrist_cam", (3,)),
    }
    for key, (name, shape) in names.items():
        if notes.get(key) is not None:
            keywords[name] = _array(key, notes[key], shape)
    if notes.get("K") is not None:
        keywords["intrinsics"] = _intrinsics(notes["K"])
    if notes.get("fov") is not None:
        keywords["fov_deg"] = float(_array("fov", notes["fov"], ()))
    if notes.get("object") is not None:
        if not isinstance(notes["object"], str):
            raise UserError(
                f"object: wants a name or a file in quotes, got {notes['object']!r:.80}"
            )
        keywords["object_shape"] = _object(notes["object"])
    return keywords


def _array(key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.full((0,), np.nan)
    if array.shape != shape or not np.isfinite(array).all():
        count = int(np.prod(shape))
        raise UserError(f"{key}: wants {count} finite numbers, got {value!r:.80}")
    return array


def _intrinsics(value: Any) -> np.ndarray:
    """fx, fy, cx, cy, or the nine numbers of a matrix in any nesting."""
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.size not in (4, 9) or not np.isfinite(numbers).all():
        raise UserError(
            f"K: wants fx, fy, cx, cy or 9 finite numbers, got {value!r:.80}"
        )
    if numbers.size == 4:
        fx, fy, cx, cy = numbers
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return numbers.reshape(3, 3)


def _object(name: str) -> str | ObjectShape:
    """A known name as it is; a file as the mesh in it, metres."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in MESHES:
        if path.is_file():
            raise UserError(f"{path}: not a mesh; known: {', '.join(MESHES)}")
        return name
    try:
        if path.stat().st_size > MAX_MESH_BYTES:
            raise UserError(f"{path}: too large a mesh")
        mesh = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices = np.asarray(mesh.vertices, np.float64)
        faces = np.asarray(mesh.faces, np.int64)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # mesh readers fail in many ways
        raise UserError(f"{path}: not a mesh ({type(error).__name__})") from error
    if not len(faces) or not np.isfinite(vertices).all():
        raise UserError(f"{path}: holds no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise UserError(f"{path}: has faces of vertices that are not there")
    extent = float(np.ptp(vertices, axis=0).max())
    if not MESH_SIZES[0] < extent < MESH_SIZES[1]:
        raise UserError(f"{path}: {extent:.3g} m wide; scale it to metres")
    return ObjectShape(path.stem, vertices, faces)


def _error_mm(result: Prediction, joints: Any) -> float | None:
    """Mean joint error after the wrists are laid upon each other."""
    if joints is None:
        return None
    truth = _array("joints_cam", joints, (21, 3))
    error = (result.joints_cam - result.joints_cam[:1]) - (truth - truth[:1])
    return float(1e3 * np.linalg.norm(error, axis=-1).mean())


def to_json(result: Prediction, fields: tuple[str, ...] = JSON_FIELDS) -> dict:
    """A result as plain values."""
    values = {name: _plain(getattr(result, name)) for name in fields}
    return {
        "format": FORMAT,
        "conventions": "OpenCV camera (x right, y down, z forward), metres; _px: "
        "pixels of the picture; joints in MANO order",
        "object_name": _object_name(result),
        **values,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.round(value.astype(np.float64), 6).tolist()
    return list(value) if isinstance(value, tuple) else value


def write_answer(answered: Answered, folder: Path) -> None:
    """All files of one picture; prediction.json last, so that it marks a whole set.

    What an earlier answer left there goes, also what this one does not write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    scene = scene_of(answered.result)
    for name, picture in _files_of(answered.views).items():
        figures.write_png(folder / f"{name}.png", picture)
    sheet = prediction_views.draw_sheet(
        answered.views,
        title=answered.name,
        note=_note(answered),
    )
    figures.write_png(folder / "sheet.png", sheet)
    meshes = {"hand": scene.hand}
    if scene.object is not None:
        meshes["object"] = scene.object
    for ending in mesh_export.FORMATS:
        mesh_export.write_meshes(folder / f"meshes{ending}", meshes)
    measured = {
        "error_mm": answered.error_mm,
        "hand_visible": answered.shares.hand_visible,
        "object_visible": answered.shares.object_visible,
        "mask_disagreement": answered.shares.disagreement,
    }
    text = json.dumps({**to_json(answered.result), "measured": measured}, indent=1)
    with replacing(folder / RESULT) as part:
        part.write_text(text + "\n", encoding="utf-8")


def describe(answered: Answered) -> str:
    """A result in a few lines for the terminal."""
    result = answered.result
    at = result.cam_T_obj[:3, 3]
    lines = [
        f"{answered.name}: hand at {_metres(result.wrist_cam)}, "
        f"{_object_name(result) or 'object'} at {_metres(at)}"
    ]
    if result.object_scores and _object_name(result):
        lines[0] += f" ({_belief(result)})"
        if not _has_mesh(result):
            lines.append("its mesh is not here: the hull of its points is drawn")
    elif result.object_scores:
        lines.append(
            f"object not recognised (perhaps {_belief(result)}): the hull of its "
            "points is drawn; --object=NAME draws a known one"
        )
    if answered.error_mm is not None:
        lines.append(f"mean joint error {answered.error_mm:.1f} mm")
    if result.predicted_inputs:
        lines.append("found by the network: " + ", ".join(result.predicted_inputs))
    if not result.is_metric:
        source = {
            "fov": "from the field of view you gave",
            "exif": "from the picture's EXIF",
            "assumed": f"assumed ({photos.ASSUMED_FOV_DEG:.0f} degrees)",
        }[result.camera_source]
        lines.append(f"focal length {source}: distances are not metric (give --K)")
    return "\n".join(lines)


def _object_name(result: Prediction) -> str | None:
    """Of a mesh that was given or an object that is known; None: not recognised."""
    if _has_mesh(result):
        return result.object_shape.name
    best = max(result.object_scores, key=result.object_scores.get, default=None)
    is_sure = best is not None and result.object_scores[best] >= SURE_FROM
    return best if is_sure else None


def _has_mesh(result: Prediction) -> bool:
    return result.object_shape is not None and result.object_shape.name != UNNAMED


def _belief(result: Prediction) -> str:
    """How sure the network is of the object it names, or of its two best guesses."""
    ranked = sorted(result.object_scores.items(), key=lambda pair: -pair[1])
    if ranked[0][1] >= SURE_FROM:
        return f"belief {100 * ranked[0][1]:.0f} %"
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked[:2])


def _metres(point: np.ndarray) -> str:
    return "({:.3f}, {:.3f}, {:.3f}) m".format(*point)


def _note(answered: Answered) -> str:
    result, shares = answered.result, answered.shares
    words = [_object_name(result) or "object not recognised"]
    if result.object_scores:
        words[0] += f" ({_belief(result)})"
    words.append(f"hand {100 * shares.hand_visible:.0f} % in sight")
    if shares.object_visible is not None:
        words.append(f"object {100 * shares.object_visible:.0f} % in sight")
    words.append(f"masks and meshes differ by {100 * shares.disagreement:.0f} %")
    if answered.error_mm is not None:
        words.append(f"MJE {answered.error_mm:.1f} mm")
    words.append("metric" if result.is_metric else "depth not metric")
    return ", ".join(words)


def _entry(answered: Answered, folder: str) -> gallery.Entry:
    shares = answered.shares
    return gallery.Entry(
        name=answered.name,
        note=_note(answered),
        link=f"{urllib.parse.quote(folder)}/",
        picture=gallery.embedded_jpeg(answered.views["overlay"]),
        meshes=tuple(scene_of(answered.result).meshes),
        values={
            "error": answered.error_mm,
            "hand occlusion": 100 * (1 - shares.hand_visible),
            "object occlusion": None
            if shares.object_visible is None
            else 100 * (1 - shares.object_visible),
            "mask disagreement": 100 * shares.disagreement,
        },
    )


# --- videos ---


def predict_video(
    predict: Predictor,
    path: Path,
    out: Path,
    given: Mapping[str, Any],
    *,
    smooth: bool,
    skeleton: bool,
    details: bool,
) -> None:
    """Answers every frame; writes a video of overlays and a line of JSON for each.

    Interrupted, it leaves both of the frames that it has come to.
    """
    del details  # a video has no pictures of its own
    keywords = to_keywords(_notes_of(path, given))
    clip, writer = _open_video(path), None
    rate = clip.get(cv2.CAP_PROP_FPS) or 25.0
    total = max(int(clip.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
    calm = Calmer(1 / rate, predict.find_believed) if smooth else None
    out.mkdir(parents=True, exist_ok=True)
    lines_part, clip_part = (out / f".part.{name}" for name in (LINES, CLIP))
    count = 0
    try:
        with lines_part.open("w", encoding="utf-8") as lines:
            for image in progress_bar(_frames(clip), total=total, desc="frames"):
                result = predict(image, **keywords)
                result = calm(result) if calm else result
                drawn = _draw_frame(image, result, skeleton)
                writer = writer or _open_writer(clip_part, rate, drawn)
                writer.write(drawn[..., ::-1])
                line = {"frame": count, "seconds": count / rate}
                lines.write(json.dumps(line | to_json(result, LINE_FIELDS)) + "\n")
                count += 1
    finally:
        if count:
            writer.release()
            os.replace(lines_part, out / LINES)
            os.replace(clip_part, out / CLIP)
        else:
            lines_part.unlink(missing_ok=True)
    if not count:
        raise UserError(f"{path}: holds no frame that can be read")
    print(f"{count} frames of {path.name} -> {out / CLIP}, {out / LINES}")
    if count < total:
        print(
            f"warning: {path} says that it has {total} frames; the others cannot be "
            "read, and where some are lost on the way later ones are numbered wrongly"
        )


def _open_video(path: Path) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", FFMPEG_QUIET)
    clip = cv2.VideoCapture(str(path))
    if not clip.isOpened():
        raise UserError(f"{path}: not a video that OpenCV can read")
    return clip


def _frames(clip: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        is_there, frame = clip.read()
        if not is_there:
            clip.release()
            return
        yield np.ascontiguousarray(frame[..., ::-1])


def _draw_frame(image: np.ndarray, result: Prediction, skeleton: bool) -> np.ndarray:
    picture, intrinsics = prediction_views.fit_picture(image, result.picture_intrinsics)
    drawn = prediction_views.draw_overlay(
        picture, scene_of(result), intrinsics, skeleton=skeleton
    )
    height, width = (n // 2 * 2 for n in drawn.shape[:2])  # what codecs want
    return drawn[:height, :width]


def _open_writer(path: Path, rate: float, frame: np.ndarray) -> cv2.VideoWriter:
    height, width = frame.shape[:2]
    code = cv2.VideoWriter_fourcc(*CODEC)
    writer = cv2.VideoWriter(str(path), code, rate, (width, height))
    if not writer.isOpened():
        raise UserError(f"{path}: this build of OpenCV cannot write {CODEC} video")
    return writer


class Calmer:
    """Filters a video's results over time: One-Euro, rotations on SO(3).

    The object is the one that the frames of the last seconds believe in together: a
    clip shows one, and a single frame may take it for another.
    """

    def __init__(
        self, seconds: float, find_object: Callable[[str], ObjectShape | None]
    ):
        """Prepares the filters for frames `seconds` apart."""
        self._seconds, self._find_object = seconds, find_object
        self._beliefs: dict[str, float] = {}
        self._places = {
            name: smoothing.OneEuro()
            for name in ("joints_cam", "vertices_cam", "wrist_cam", "object")
        }
        self._hand = smoothing.OneEuroRotation()
        self._object = smoothing.OneEuroRotation()

    def __call__(self, result: Prediction) -> Prediction:
        """The next frame's result, calmed."""
        step = self._seconds
        rotmat = Rotation.from_rotvec(result.hand_pose_aa).as_matrix()
        pose = Rotation.from_matrix(self._hand(rotmat, step)).as_rotvec()
        believed = self._with_believed_object(result)
        found = result.cam_T_obj
        if result.is_left:  # of the mirror image: that of which object changes
            found = mirrored_pose(found, result.object_shape)
        cam_T_obj = np.eye(4)
        cam_T_obj[:3, :3] = self._object(found[None, :3, :3], step)[0]
        cam_T_obj[:3, 3] = self._places["object"](found[:3, 3], step)
        if result.is_left:
            cam_T_obj = mirrored_pose(cam_T_obj, believed.object_shape)
        calmed = {
            name: self._places[name](getattr(result, name), step)
            for name in ("joints_cam", "vertices_cam", "wrist_cam")
        }
        return believed._replace(hand_pose_aa=pose, cam_T_obj=cam_T_obj, **calmed)

    def _with_believed_object(self, result: Prediction) -> Prediction:
        """The result with the object that the running mean of beliefs names."""
        if not result.object_scores:
            return result
        share = 1 - np.exp(-self._seconds / BELIEF_SECONDS)
        last = self._beliefs or result.object_scores
        self._beliefs = {
            name: last[name] + share * (score - last[name])
            for name, score in result.object_scores.items()
        }
        result = result._replace(object_scores=dict(self._beliefs))
        best = max(self._beliefs, key=self._beliefs.get)
        if self._beliefs[best] < SURE_FROM:
            return result
        shape = self._find_object(best)
        return result if shape is None else result._replace(object_shape=shape)
