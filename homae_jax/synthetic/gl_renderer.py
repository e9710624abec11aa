"""The OpenGL renderer: one pass over EGL gives picture, segmentation and depth.

Works without a display and without a GPU (Mesa's software driver). The projection
takes OpenCV's z as it is and keeps image row 0 at the bottom of GL's window, so that
what is read back needs no flip. Pixel centres are integers: GL's are at half integers,
hence the + 0.5 on the principal point.
"""

import moderngl
import numpy as np
from jaxtyping import Float

from homae_jax.synthetic.meshes import DrawMesh, Material
from homae_jax.synthetic.render import (
    HAND,
    OBJECT,
    OUTLINE_PX,
    SHADOW_OFFSET,
    SHADOW_SIZE,
    SHININESS,
    Part,
    Rendering,
    Stage,
    outline_camera,
    shadow_camera,
    stage_bounds,
)
from homae_jax.synthetic.render import SHADOW_DISTANCE as LAMP

NEAR, FAR = 0.05, 8.0  # metres
MAX_TEXTURES = 128  # kept on the device

_DRAW_VERTEX = """#version 330
uniform mat4 projection, cam_from_mesh, lamp_from_cam;
in vec3 position, normal; in vec2 uv;
out vec3 cam_point, cam_normal; out vec2 tex_uv; out vec4 lamp_point;
void main() {
  vec4 point = cam_from_mesh * vec4(position, 1.0);
  cam_point = point.xyz;
  cam_normal = mat3(cam_from_mesh) * normal;
  tex_uv = uv;
  vec3 facing = dot(cam_normal, cam_point) > 0.0 ? -cam_normal : cam_normal;
  lamp_point = lamp_from_cam * vec4(cam_point + SHADOW_OFFSET * facing, 1.0);
  gl_Position = projection * point;
}""".replace("SHADOW_OFFSET", str(SHADOW_OFFSET))

_DRAW_FRAGMENT = """#version 330
uniform sampler2D picture; uniform sampler2DShadow lamp_depth;
uniform vec3 to_light, tint;
uniform float ambient, strength, gloss, wrap, shadow_bias;
uniform int label;
in vec3 cam_point, cam_normal; in vec2 tex_uv; in vec4 lamp_point;
layout(location = 0) out vec4 colour;
layout(location = 1) out uint seen_label;
layout(location = 2) out float depth;
void main() {
  vec3 view = -normalize(cam_point), n = normalize(cam_normal);
  if (dot(n, view) < 0.0) n = -n;
  vec3 albedo = texture(picture, tex_uv).rgb;
  albedo *= albedo;
  vec3 spot = lamp_point.xyz / lamp_point.w * 0.5 + 0.5;
  float lit = texture(lamp_depth, vec3(spot.xy, spot.z - shadow_bias));
  float diffuse = clamp((dot(n, to_light) + wrap) / (1.0 + wrap), 0.0, 1.0) * lit;
  float sky = ambient * (0.8 - 0.3 * n.y);
  float shine = pow(max(dot(n, normalize(to_light + view)), 0.0), SHININESS);
  vec3 linear = (albedo * (sky + strength * diffuse) + gloss * shine * lit) * tint;
  colour = vec4(sqrt(clamp(linear, 0.0, 1.0)), 1.0);
  seen_label = uint(label);
  depth = cam_point.z;
}""".replace("SHININESS", str(SHININESS))

_POINTS_VERTEX = """#version 330
uniform mat4 clip_from_mesh; in vec3 position;
void main() { gl_Position = clip_from_mesh * vec4(position, 1.0); }"""
_EMPTY_FRAGMENT = "#version 330\nvoid main() {}"
_OUTLINE_FRAGMENT = """#version 330
uniform vec2 mark; layout(location = 0) out vec2 seen;
void main() { seen = mark; }"""


class GlRenderer:
    """See `render.Renderer`."""

    name = "gl"

    def __init__(self, height: int, width: int):
        self._size = (width, height)
        context = moderngl.create_context(standalone=True, backend="egl")
        self._context = context
        self._draw = context.program(_DRAW_VERTEX, _DRAW_FRAGMENT)
        self._cast = context.program(_POINTS_VERTEX, _EMPTY_FRAGMENT)
        self._outline = context.program(_POINTS_VERTEX, _OUTLINE_FRAGMENT)
        self._targets = [
            context.texture(self._size, 3),
            context.renderbuffer(self._size, 1, dtype="u1"),
            context.renderbuffer(self._size, 1, dtype="f4"),
        ]
        self._frame = context.framebuffer(
            self._targets, context.depth_renderbuffer(self._size)
        )
        self._wide = context.framebuffer(
            [context.renderbuffer((width // 2, height // 2), 2)]
        )
        self._lamp_depth = context.depth_texture((SHADOW_SIZE, SHADOW_SIZE))
        self._lamp_depth.compare_func = "<="
        self._lamp_depth.repeat_x = self._lamp_depth.repeat_y = False
        self._lamp = context.framebuffer(depth_attachment=self._lamp_depth)
        self._buffers: dict[DrawMesh, _Buffers] = {}
        self._textures: dict[Material, moderngl.Texture] = {}
        self._draw["picture"], self._draw["lamp_depth"] = 0, 1

    def render(self, stage: Stage) -> Rendering:
        """Draws everything."""
        self._release_moving(stage.parts)
        buffers = [self._buffers_of(part.mesh) for part in stage.parts]
        self._cast_shadows(stage, buffers)
        self._frame.clear()
        self._targets[0].write(np.ascontiguousarray(stage.background))
        self._frame.use()
        self._context.enable_only(moderngl.DEPTH_TEST)
        self._lamp_depth.use(1)
        self._set_matrix(
            self._draw, "projection", _projection(stage.intrinsics, *self._size)
        )
        light = stage.light
        self._draw["to_light"].value = tuple(light.direction)
        self._draw["tint"].value = tuple(light.tint)
        self._draw["ambient"].value = light.ambient
        self._draw["strength"].value = light.strength
        for part, buffer in zip(stage.parts, buffers, strict=True):
            self._texture_of(part.material).use(0)
            self._set_matrix(self._draw, "cam_from_mesh", part.cam_T_mesh)
            self._draw["gloss"].value = part.material.gloss
            self._draw["wrap"].value = part.material.wrap
            self._draw["label"].value = part.label
            buffer.drawn.render()
        return self._read()

    def outline_areas(self, stage: Stage) -> tuple[float, float]:
        """Areas in px of hand and object, each as if alone in a far wider picture."""
        width, height = self._size
        camera = outline_camera(stage.intrinsics, height, width)
        projection = _projection(camera, width // 2, height // 2)
        self._wide.use()
        self._wide.clear()
        self._context.enable_only(moderngl.BLEND)
        self._context.blend_func = moderngl.ONE, moderngl.ONE
        for part in stage.parts:
            if part.label not in (HAND, OBJECT):
                continue
            mark = (float(part.label == HAND), float(part.label == OBJECT))
            self._outline["mark"].value = mark
            self._set_matrix(
                self._outline, "clip_from_mesh", projection @ part.cam_T_mesh
            )
            self._buffers_of(part.mesh).outlined.render()
        marks = np.frombuffer(self._wide.read(components=2, alignment=1), np.uint8)
        areas = np.count_nonzero(marks.reshape(-1, 2), axis=0) * OUTLINE_PX**2
        return float(areas[0]), float(areas[1])

    def _cast_shadows(self, stage: Stage, buffers: list["_Buffers"]) -> None:
        low, high = stage_bounds(stage)
        lamp_T_cam, intrinsics, radius = shadow_camera(stage.light, low, high)
        near, far = LAMP - 1.05 * radius, LAMP + 1.05 * radius
        clip = _projection(intrinsics, SHADOW_SIZE, SHADOW_SIZE, near, far) @ lamp_T_cam
        self._lamp.use()
        self._lamp.clear(depth=1.0)
        self._context.enable_only(moderngl.DEPTH_TEST)
        for part, buffer in zip(stage.parts, buffers, strict=True):
            if not part.casts_shadow:
                continue
            self._set_matrix(self._cast, "clip_from_mesh", clip @ part.cam_T_mesh)
            buffer.cast.render()
        self._set_matrix(self._draw, "lamp_from_cam", clip)
        self._draw["shadow_bias"].value = SHADOW_OFFSET / (2.1 * radius)

    def _read(self) -> Rendering:
        width, height = self._size
        rgb = np.frombuffer(self._frame.read(components=3, alignment=1), np.uint8)
        labels = self._frame.read(components=1, attachment=1, dtype="u1", alignment=1)
        depth = self._frame.read(components=1, attachment=2, dtype="f4", alignment=1)
        return Rendering(
            rgb=rgb.reshape(height, width, 3),
            segmentation=np.frombuffer(labels, np.uint8).reshape(height, width),
            depth=np.frombuffer(depth, np.float32).reshape(height, width),
        )

    def _buffers_of(self, mesh: DrawMesh) -> "_Buffers":
        if mesh not in self._buffers:
            programs = self._draw, self._cast, self._outline
            self._buffers[mesh] = _Buffers(self._context, mesh, *programs)
        return self._buffers[mesh]

    def _release_moving(self, parts: tuple[Part, ...]) -> None:
        """Frees what earlier pictures alone needed."""
        needed = {part.mesh for part in parts}
        moving = [m for m in self._buffers if not m.is_static and m not in needed]
        for mesh in moving:
            self._buffers.pop(mesh).release()
        used = {part.material for part in parts}
        if len(self._textures) > MAX_TEXTURES:
            for material in [m for m in self._textures if m not in used]:
                self._textures.pop(material).release()

    def _texture_of(self, material: Material) -> moderngl.Texture:
        if material in self._textures:
            return self._textures[material]
        height, width = material.texture.shape[:2]
        # GL's row 0 is the bottom of the picture.
        rows = np.ascontiguousarray(material.texture[::-1])
        texture = self._context.texture((width, height), 3, rows, alignment=1)
        if material.is_tiled:
            texture.build_mipmaps()
            texture.filter = moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR
        self._textures[material] = texture
        return texture

    def _set_matrix(self, program, name: str, matrix: np.ndarray) -> None:
        program[name].write(np.ascontiguousarray(matrix.T, np.float32))


class _Buffers:
    """A mesh on the device, bound to the three programs."""

    def __init__(self, context, mesh: DrawMesh, draw, cast, outline):
        interleaved = np.concatenate([mesh.positions, mesh.normals, mesh.uvs], axis=1)
        self._vertices = context.buffer(np.ascontiguousarray(interleaved, np.float32))
        self._indices = context.buffer(np.ascontiguousarray(mesh.faces, np.int32))
        full = [(self._vertices, "3f 3f 2f", "position", "normal", "uv")]
        points = [(self._vertices, "3f 20x", "position")]
        self.drawn = context.vertex_array(draw, full, self._indices)
        self.cast = context.vertex_array(cast, points, self._indices)
        self.outlined = context.vertex_array(outline, points, self._indices)

    def release(self) -> None:
        for item in (
            self.drawn,
            self.cast,
            self.outlined,
            self._vertices,
            self._indices,
        ):
            item.release()


def _projection(
    intrinsics: Float[np.ndarray, "3 3"],
    width: int,
    height: int,
    near: float = NEAR,
    far: float = FAR,
) -> Float[np.ndarray, "4 4"]:
    """Clip coordinates of a pinhole camera whose pixel centres are integers."""
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    cx, cy = intrinsics[0, 2] + 0.5, intrinsics[1, 2] + 0.5
    span = far - near
    return np.array(
        [
            [2 * fx / width, 0, 2 * cx / width - 1, 0],
            [0, 2 * fy / height, 2 * cy / height - 1, 0],
            [0, 0, (far + near) / span, -2 * far * near / span],
            [0, 0, 1, 0],
        ]
    )
