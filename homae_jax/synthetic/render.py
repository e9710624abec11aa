"""Draws a stage: picture, segmentation and depth, by OpenGL or by numpy.

A stage is in the OpenCV camera frame (x right, y down, z forward, metres). Pixel
centres are integers: the top-left pixel's centre is (0, 0), in both renderers. Colours
are shaded in linear light with a display gamma of 2.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from homae_jax.errors import UserError
from homae_jax.synthetic.appearance import Light
from homae_jax.synthetic.meshes import DrawMesh, Material

BACKGROUND, HAND, OBJECT = 0, 1, 2  # labels of parts, values of segmentations

OUTLINE_PX = 4.0  # px of the picture per pixel of an outline
SHININESS = 28.0
SHADOW_SIZE = 512  # pixels of the lamp's depth picture, per side
SHADOW_DISTANCE = 4.0  # metres to the lamp: far enough for parallel rays
SHADOW_OFFSET = 0.0015  # metres along the normal, against self-shadowing


class Part(NamedTuple):
    """One thing to draw."""

    mesh: DrawMesh
    material: Material
    cam_T_mesh: Float[np.ndarray, "4 4"]
    label: int
    casts_shadow: bool = True


class Stage(NamedTuple):
    """Everything in one picture."""

    parts: tuple[Part, ...]
    intrinsics: Float[np.ndarray, "3 3"]
    light: Light
    background: UInt8[np.ndarray, "h w 3"]


class Rendering(NamedTuple):
    """A drawn stage."""

    rgb: UInt8[np.ndarray, "h w 3"]
    segmentation: UInt8[np.ndarray, "h w"]
    depth: Float[np.ndarray, "h w"]  # z in metres, 0 = background


class Visibility(NamedTuple):
    """Visible share of the hand's and the object's outline; nan if there is none.

    What lies outside the picture or behind anything else counts as hidden.
    """

    hand: float
    object: float


@runtime_checkable
class Renderer(Protocol):
    """What both renderers can do. One size of picture per renderer."""

    name: str

    def render(self, stage: Stage) -> Rendering:
        """Draws everything."""

    def outline_areas(self, stage: Stage) -> tuple[float, float]:
        """Areas in px of hand and object, each as if alone in a far wider picture."""


def make_renderer(height: int, width: int, *, backend: str = "auto") -> Renderer:
    """Opens OpenGL without a display, or takes the numpy z-buffer where there is none.

    Args:
      height: of the picture in px.
      width: of the picture in px.
      backend: "gl", "cpu" or "auto" (gl if it works).

    Raises:
      UserError: an unknown backend, or "gl" where EGL is absent.
    """
    if backend not in ("auto", "gl", "cpu"):
        raise UserError(f"renderer {backend!r}: use auto, gl or cpu")
    if backend != "cpu":
        try:
            from homae_jax.synthetic.gl_renderer import GlRenderer

            return GlRenderer(height, width)
        except Exception as error:  # moderngl raises bare Exceptions
            if backend == "gl":
                raise UserError(
                    f"renderer gl: EGL does not start ({error}); install libegl1 and "
                    "libgl1-mesa-dri, or use --renderer=cpu"
                ) from error
    from homae_jax.synthetic.cpu_renderer import CpuRenderer

    return CpuRenderer(height, width)


def measure_visibility(
    renderer: Renderer, stage: Stage, rendering: Rendering
) -> Visibility:
    """Compares what the picture shows with the outlines drawn alone."""
    shares = []
    for label, area in zip((HAND, OBJECT), renderer.outline_areas(stage), strict=True):
        seen = np.count_nonzero(rendering.segmentation == label)
        shares.append(min(float(seen / area), 1.0) if area else float("nan"))
    return Visibility(*shares)


def outline_camera(
    intrinsics: Float[np.ndarray, "3 3"], height: int, width: int
) -> Float[np.ndarray, "3 3"]:
    """A camera for half the height and width, seeing twice as far to every side."""
    wide = intrinsics.astype(np.float64).copy()
    wide[:2] /= OUTLINE_PX
    wide[:2, 2] += np.array([width, height]) / 8
    return wide


def shadow_camera(
    light: Light, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"], float]:
    """A pinhole camera in the lamp's place that just sees a box.

    Args:
      light: the lamp.
      low: lower corner of everything that casts shadows, camera frame.
      high: upper corner of it.

    Returns:
      lamp_T_cam, the intrinsics for SHADOW_SIZE px, and the box's radius in metres.
    """
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low) / 2)
    forward = -light.direction
    right = np.cross(forward, [0.3, 0.1, 1.0])
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    lamp_T_cam = np.eye(4)
    lamp_T_cam[:3, :3] = rotation
    lamp_T_cam[:3, 3] = -rotation @ centre + [0, 0, SHADOW_DISTANCE]
    focal = (SHADOW_SIZE / 2 - 2) * (SHADOW_DISTANCE - radius) / radius
    middle = (SHADOW_SIZE - 1) / 2
    intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    return lamp_T_cam, intrinsics, radius


def stage_bounds(
    stage: Stage,
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Lower and upper corner of all that casts shadows, camera frame."""
    corners = []
    for part in stage.parts:
        if not part.casts_shadow:
            continue
        box = np.stack(np.meshgrid(*part.mesh.bounds.T), axis=-1)
        rotation, shift = part.cam_T_mesh[:3, :3], part.cam_T_mesh[:3, 3]
        corners.append(box.reshape(-1, 3) @ rotation.T + shift)
    points = np.concatenate(corners)
    return points.min(axis=0), points.max(axis=0)
