"""One HTML file with many predictions: sortable cards and meshes that turn.

Everything is inside the file: pictures as JPEG, vertices as 16-bit steps about each
mesh's middle (a hand then lies within 0.01 mm), every list of faces once, and the
viewer of assets/. Nothing is fetched; the page's own policy forbids it.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from homae_jax.viz.overlay import Mesh
from homae_jax.whole_file import replacing

PICTURE_SIDE_PX = 640
JPEG_QUALITY = 82
STEPS = 32_000  # of the largest coordinate
MAX_VERTICES = 2**16  # what a face's 16-bit numbers can name
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


class Entry(NamedTuple):
    """One prediction on the page; meshes in the camera frame, metres."""

    name: str
    note: str
    link: str  # to its files, relative to the page
    picture: str  # data URL, so that a thousand entries fit in memory
    meshes: tuple[Mesh, ...]
    values: Mapping[str, float | None]  # what can be sorted by: mm for "error", else %


def write_gallery(path: str | Path, entries: Sequence[Entry], *, title: str) -> None:
    """Writes the page; a browser sees the old one or the whole new one."""
    faces: dict[str, int] = {}
    packed = []
    data = {
        "keys": _known_keys(entries),
        "entries": [_entry(entry, faces, packed) for entry in entries],
        "faces": packed,
    }
    # "<" could end the script element early: a name may hold anything.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = _page(html.escape(title), len(entries), text)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def asset(name: str) -> str:
    """The text of a file of assets/."""
    return (resources.files("homae_jax.viz") / "assets" / name).read_text("utf-8")


def embedded_jpeg(
    image: UInt8[np.ndarray, "_h _w 3"], side: int = PICTURE_SIDE_PX
) -> str:
    """A picture as a data URL, no larger than `side`."""
    factor = min(1.0, side / max(image.shape[:2]))
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", small[..., ::-1], options)
    return "data:image/jpeg;base64," + _text(encoded)


def _known_keys(entries: Sequence[Entry]) -> list[str]:
    """Values that at least one entry has, in their order."""
    keys = dict.fromkeys(key for entry in entries for key in entry.values)
    return [
        key
        for key in keys
        if any(entry.values.get(key) is not None for entry in entries)
    ]


def _entry(entry: Entry, faces: dict[str, int], packed: list[str]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "note": entry.note,
        "link": entry.link,
        "picture": entry.picture,
        "meshes": [_mesh(mesh, faces, packed) for mesh in entry.meshes],
        "values": {
            key: None if value is None else round(value, 2)
            for key, value in entry.values.items()
        },
    }


def _mesh(mesh: Mesh, known: dict[str, int], packed: list[str]) -> dict[str, Any]:
    vertices, triangles = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if len(vertices) >= MAX_VERTICES:
        used = triangles[:: -(-len(triangles) // (MAX_VERTICES // 4))]
        rows, triangles = np.unique(used, return_inverse=True)
        vertices, triangles = vertices[rows], triangles.reshape(-1, 3)
    raw = np.ascontiguousarray(triangles, "<u2")
    digest = hashlib.sha256(raw.tobytes()).hexdigest()
    if digest not in known:
        known[digest] = len(packed)
        packed.append(_text(raw))
    origin = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    offsets = vertices - origin[None]
    pitch = max(float(np.abs(offsets).max()), 1e-9) / STEPS
    return {
        "origin": origin.tolist(),
        "pitch": pitch,
        "steps": _text(np.round(offsets / pitch).astype("<i2")),
        "faces": known[digest],
        "colour": list(mesh.colour),
    }


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _page(title: str, num: int, data: str) -> str:
    count = f"{num} picture{'s' if num != 1 else ''}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{asset("gallery.css")}</style>
</head>
<body>
<header><h1>{title}</h1><p>{count}, hand and object in 3D</p></header>
<main>
<aside>
<canvas id="viewer" tabindex="0" aria-label="3D view"></canvas>
<p class="hint">drag to turn, wheel to zoom, double-click for the camera's own view</p>
<h2 id="caption"></h2><p id="note"></p>
<p><a id="files">files of this picture</a></p>
<img id="picture" alt="overlay">
</aside>
<section><div id="sorts"></div><div id="grid"></div></section>
</main>
<script id="data" type="application/json">{data}</script>
<script>{asset("viewer.js")}</script>
<script>{asset("gallery.js")}</script>
</body>
</html>
"""
