"""A person's own pictures: reading them, and the camera that took them.

Pixels: the centre of the top-left pixel is (0, 0). Intrinsics are pinhole matrices of
the whole picture. Where nobody gives them they are guessed, and the guess says so:
absolute depth is only as good as the focal length.
"""

import contextlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps

from homae_jax.errors import UserError

PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff"),
)
NOTES = ".json"  # beside a picture, what is known of it
MOST_SKEW = 0.1  # of the focal length; cameras have less than a hundredth
FOCAL_SHARES = (0.1, 100.0)  # of the longer side, that a focal length may be
ASSUMED_FOV_DEG = 60.0  # along the longer side: between a phone and a webcam
FILM_DIAGONAL_MM = 43.27  # of 36 x 24 mm, what "35 mm equivalent" refers to
MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 16
APPLE_PICTURES = (".heic", ".heif")  # what Pillow cannot read
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey, 16 bits
WHITE_OF = {"I": (255, 65535), "F": (1.0, 255.0)}  # between: of 16 and of 8 bits
FARTHEST_CENTER = 5.0  # longer sides, that a principal point may be away
LYING = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_IFD = ExifTags.IFD.Exif


class Photo(NamedTuple):
    """A picture as it is meant to be looked at (EXIF orientation applied)."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    focal_35mm: float | None  # EXIF focal length, 35 mm equivalent


class Camera(NamedTuple):
    """Intrinsics of a picture, and where they come from."""

    intrinsics: Float[np.ndarray, "3 3"]
    source: str  # "given" | "fov" | "exif" | "assumed"
    is_metric: bool  # False: the focal length is a guess, and so is every depth


def read_photo(path: str | Path) -> Photo:
    """Reads a picture as RGB, turned upright.

    Raises:
      UserError: no picture, damaged, or unreasonably large or small.
    """
    path = Path(path)
    if path.suffix.lower() in APPLE_PICTURES:
        raise UserError(f"{path}: convert it to JPEG first; HEIC cannot be read here")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            photo = _read(path)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture of a kind known here") from error
    except Exception as error:  # PIL fails in many ways on damaged files
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable picture ({reason})") from error
    if min(photo.image.shape[:2]) < MIN_SIDE_PX:
        raise UserError(f"{path}: smaller than {MIN_SIDE_PX} px")
    return photo


def _read(path: Path) -> Photo:
    with Image.open(path) as file:
        if file.width * file.height > MAX_PIXELS:
            raise UserError(f"{path}: {file.width} x {file.height} px is too large")
        focal = _exif_focal(file)
        upright = ImageOps.exif_transpose(file)
        if upright.mode in WHITE_OF:
            dark, bright = WHITE_OF[upright.mode]
            if not dark < np.asarray(upright).max() <= bright:
                raise UserError(
                    f"{path}: 32 bits a pixel, and no telling which is white; save it "
                    "with 8 or 16"
                )
        if upright.mode in DEEP_MODES:  # Pillow's own conversion would cut, not scale
            grey = np.clip(np.asarray(upright) // 256, 0, 255)
            upright = Image.fromarray(grey.astype(np.uint8))
        elif upright.has_transparency_data:  # what lies below is no picture
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright)
        return Photo(np.asarray(upright.convert("RGB")), focal)


def _exif_focal(file: Image.Image) -> float | None:
    """EXIF's 35 mm equivalent focal length, None where it is absent or nonsense."""
    value = file.getexif().get_ifd(_IFD).get(ExifTags.Base.FocalLengthIn35mmFilm)
    try:
        focal = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return focal if 5.0 < focal < 2000.0 else None


def choose_camera(
    width: int,
    height: int,
    *,
    intrinsics: Float[np.ndarray, "3 3"] | None = None,
    fov_deg: float | None = None,
    focal_35mm: float | None = None,
) -> Camera:
    """The best that is known: K, else a field of view, else EXIF, else an assumption.

    Only a K that was given counts as metric.

    Args:
      fov_deg: along the longer side.
      focal_35mm: 35 mm equivalent, by the diagonal.

    Raises:
      UserError: K is no pinhole matrix, the angle is out of (1, 179), or the focal
        length is none.
    """
    if intrinsics is not None:
        try:
            given = np.asarray(intrinsics, np.float64)
        except (TypeError, ValueError):
            given = np.zeros(0)
        return Camera(_checked(given, max(width, height)), "given", True)
    if fov_deg is not None:
        if not 1.0 < fov_deg < 179.0:
            raise UserError(f"fov={fov_deg:g}: give an angle between 1 and 179 degrees")
        return Camera(_from_fov(width, height, fov_deg), "fov", False)
    if focal_35mm is not None:
        if not 0.0 < focal_35mm < np.inf:
            raise UserError(f"focal_35mm={focal_35mm:g}: give millimetres")
        focal = focal_35mm / FILM_DIAGONAL_MM * float(np.hypot(width, height))
        return Camera(_pinhole(width, height, focal), "exif", False)
    return Camera(_from_fov(width, height, ASSUMED_FOV_DEG), "assumed", False)


def _from_fov(width: int, height: int, fov_deg: float) -> Float[np.ndarray, "3 3"]:
    focal = max(width, height) / 2 / np.tan(np.radians(fov_deg) / 2)
    return _pinhole(width, height, float(focal))


def _pinhole(width: int, height: int, focal: float) -> Float[np.ndarray, "3 3"]:
    return np.array(
        [[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]]
    )


def _checked(intrinsics: np.ndarray, side: int) -> Float[np.ndarray, "3 3"]:
    is_pinhole = (
        intrinsics.shape == (3, 3)
        and np.isfinite(intrinsics).all()
        and np.allclose(intrinsics[2], [0.0, 0.0, 1.0])
        and intrinsics[0, 0] > 0
        and intrinsics[1, 1] > 0
        and abs(intrinsics[0, 1]) < MOST_SKEW * intrinsics[0, 0]
        and abs(intrinsics[1, 0]) < MOST_SKEW * intrinsics[1, 1]
    )
    if not is_pinhole:
        raise UserError(
            "K: give fx,fy,cx,cy (pixels) or the 3x3 matrix fx,0,cx,0,fy,cy,0,0,1"
        )
    away = float(np.abs(intrinsics[:2, 2]).max())
    if away > FARTHEST_CENTER * side:
        raise UserError(
            f"K: a principal point at {away:g} px does not go with a picture of "
            f"{side} px; give K in pixels of this picture"
        )
    for focal in (intrinsics[0, 0], intrinsics[1, 1]):
        if not FOCAL_SHARES[0] < focal / side < FOCAL_SHARES[1]:
            raise UserError(
                f"K: a focal length of {focal:g} px does not go with a picture of "
                f"{side} px; give K in pixels of this picture"
            )
    return intrinsics


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures of a folder, by name; those too that only `read_photo` refuses.

    Raises:
      UserError: there is none.
    """
    folder = Path(folder)
    known = (*PICTURES, *APPLE_PICTURES)
    found = sorted(p for p in folder.iterdir() if _is_named_as(p, known))
    if not found:
        raise UserError(f"{folder}: holds no picture ({', '.join(PICTURES)})")
    return found


def sizes(paths: Iterable[Path]) -> dict[tuple[int, int], Path]:
    """Width and height, upright, of those that can be read -> the first of them."""
    found: dict[tuple[int, int], Path] = {}
    for path in paths:
        with contextlib.suppress(Exception), Image.open(path) as file:
            lies = file.getexif().get(ExifTags.Base.Orientation, 1) in LYING
            found.setdefault(file.size[::-1] if lies else file.size, path)
    return found


def other_files(folder: str | Path) -> list[str]:
    """Names of the files that `list_pictures` passes over; notes are expected."""
    known = (*PICTURES, *APPLE_PICTURES, NOTES)
    files = (path for path in Path(folder).iterdir() if path.is_file())
    return sorted(
        path.name
        for path in files
        if not _is_named_as(path, known) and not path.name.startswith(".")
    )


def _is_named_as(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings
