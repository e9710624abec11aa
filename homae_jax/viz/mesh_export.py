"""Hand and object as mesh files: .glb for viewers, .obj for everything else.

Meshes arrive in the camera frame (OpenCV: x right, y down, z forward), metres. glTF
wants y up and z backward, so .glb files are turned by diag(1, -1, -1); .obj files keep
the camera frame unless `y_up` says otherwise.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import trimesh

from homae_jax.errors import UserError
from homae_jax.geometry.camera import GL_TO_CV
from homae_jax.viz.overlay import Mesh
from homae_jax.whole_file import replacing

FORMATS = (".glb", ".obj")


def write_meshes(
    path: str | Path, meshes: Mapping[str, Mesh], *, y_up: bool | None = None
) -> None:
    """Writes named meshes into one file.

    Args:
      path: ends in .glb or .obj.
      meshes: name of the node (glb) or group (obj) -> mesh.
      y_up: turn to the OpenGL frame; by default for .glb only.

    Raises:
      UserError: another ending.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: meshes are written as {' or '.join(FORMATS)}")
    turn = path.suffix == ".glb" if y_up is None else y_up
    rotmat = GL_TO_CV if turn else np.eye(3)
    turned = {
        name: mesh._replace(vertices=mesh.vertices @ rotmat.T)
        for name, mesh in meshes.items()
    }
    data = _glb(turned) if path.suffix == ".glb" else _obj(turned).encode()
    with replacing(path) as part:
        part.write_bytes(data)


def _glb(meshes: Mapping[str, Mesh]) -> bytes:
    scene = trimesh.Scene()
    for name, mesh in meshes.items():
        colours = np.tile([*mesh.colour, 255], (len(mesh.vertices), 1))
        body = trimesh.Trimesh(
            mesh.vertices,
            mesh.faces,
            vertex_colors=colours.astype(np.uint8),
            process=False,
        )
        scene.add_geometry(body, node_name=name, geom_name=name)
    return trimesh.exchange.gltf.export_glb(scene, include_normals=True)


def _obj(meshes: Mapping[str, Mesh]) -> str:
    """Groups with a colour at every vertex; row numbers go on across groups."""
    lines, first = [], 1
    for name, mesh in meshes.items():
        red, green, blue = (channel / 255 for channel in mesh.colour)
        lines.append(f"o {name}")
        lines += [
            f"v {x:.6f} {y:.6f} {z:.6f} {red:.3f} {green:.3f} {blue:.3f}"
            for x, y, z in mesh.vertices
        ]
        lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + first]
        first += len(mesh.vertices)
    return "\n".join(lines) + "\n"
