import subprocess
import sys

import moderngl
import numpy as np
import pytest

from homae_jax.errors import UserError
from homae_jax.synthetic.appearance import HandSkin, Light, through_lens
from homae_jax.synthetic.cpu_renderer import CpuRenderer
from homae_jax.synthetic.meshes import DrawMesh, Material
from homae_jax.synthetic.render import (
    BACKGROUND,
    HAND,
    OBJECT,
    Part,
    Stage,
    make_renderer,
    measure_visibility,
)
from tests.synthetic import toy_world

GREY = Material(np.full((4, 4, 3), 180, np.uint8), gloss=0.0)
LIGHT = Light(np.array([0.0, 0.0, -1.0]), 0.6, 0.3, np.ones(3))


def has_egl():
    try:
        moderngl.create_context(standalone=True, backend="egl").release()
    except Exception:
        return False
    return True


needs_egl = pytest.mark.skipif(not has_egl(), reason="EGL does not start here")
both_backends = pytest.mark.parametrize(
    "backend", ["cpu", pytest.param("gl", marks=needs_egl)]
)


def at(x=0.0, y=0.0, z=0.5):
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def plate(half_x, half_y):
    corners = [[-half_x, -half_y], [half_x, -half_y], [half_x, half_y]]
    corners.append([-half_x, half_y])
    return DrawMesh(
        positions=np.array([[x, y, 0.0] for x, y in corners], np.float32),
        normals=np.tile(np.array([0, 0, -1], np.float32), (4, 1)),
        uvs=np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32),
        faces=np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        is_static=True,
    )


def stage(*parts, light=LIGHT):
    background = np.full((480, 640, 3), 40, np.uint8)
    return Stage(tuple(parts), toy_world.INTRINSICS, light, background)


def random_scene(tmp_path):
    world = toy_world.make_world(tmp_path)
    return world.compose(toy_world.clip(), 1)[0]


@needs_egl
def test_renderers_agree_on_everything(tmp_path):
    scene = random_scene(tmp_path)
    gl = make_renderer(480, 640, backend="gl").render(scene)
    cpu = make_renderer(480, 640, backend="cpu").render(scene)
    same = gl.segmentation == cpu.segmentation
    assert same.mean() > 0.9999
    assert set(np.unique(gl.segmentation)) == {BACKGROUND, HAND, OBJECT}
    assert np.quantile(np.abs(gl.depth - cpu.depth)[same], 0.999) < 1e-4
    colour_error = np.abs(gl.rgb.astype(int) - cpu.rgb)[same]
    assert colour_error.mean() < 1.0
    gl_areas = make_renderer(480, 640, backend="gl").outline_areas(scene)
    cpu_areas = make_renderer(480, 640, backend="cpu").outline_areas(scene)
    np.testing.assert_allclose(gl_areas, cpu_areas, rtol=0.01)


@both_backends
def test_render_puts_pixel_centres_at_integers(backend):
    # A plate of 200 x 101 px about the pixel (320, 240), which is an integer centre:
    # columns 221..419 and rows 190..290 have their centres on it.
    half = np.array([99.5 / 600, 50.5 / 605]) * 0.5
    seen = make_renderer(480, 640, backend=backend).render(
        stage(Part(plate(*half), GREY, at(), OBJECT))
    )
    rows, columns = np.nonzero(seen.segmentation == OBJECT)
    assert (columns.min(), columns.max()) == (221, 419)
    assert (rows.min(), rows.max()) == (190, 290)
    np.testing.assert_allclose(seen.depth[rows, columns], 0.5, atol=1e-5)
    assert not seen.depth[seen.segmentation == 0].any()


@both_backends
def test_render_hides_what_is_behind(backend):
    near = Part(plate(0.05, 0.05), GREY, at(z=0.4), HAND)
    far = Part(plate(0.1, 0.1), GREY, at(z=0.5), OBJECT)
    for parts in ((near, far), (far, near)):
        seen = make_renderer(480, 640, backend=backend).render(stage(*parts))
        assert seen.segmentation[240, 320] == HAND
        assert seen.segmentation[240, 320 + 100] == OBJECT


@both_backends
def test_render_casts_shadows(backend):
    wall = Part(plate(0.15, 0.15), GREY, at(z=0.6), OBJECT)
    blocker = Part(plate(0.02, 0.02), GREY, at(x=-0.05, z=0.5), HAND)
    slanted = np.array([-0.6, 0.0, -0.8])
    light = LIGHT._replace(direction=slanted)
    renderer = make_renderer(480, 640, backend=backend)
    lit = renderer.render(stage(wall, light=light)).rgb.astype(int)
    shaded = renderer.render(stage(wall, blocker, light=light)).rgb.astype(int)
    # The lamp stands to the left: the shadow falls 0.075 m to the right.
    column = round(320 + 600 * (-0.05 + 0.075) / 0.6)
    assert (shaded[240, column] < lit[240, column] - 30).all()
    assert np.abs(shaded[240, column + 60] - lit[240, column + 60]).max() <= 1


@both_backends
def test_render_keeps_textures_upright(backend, tmp_path):
    from homae_jax.synthetic.meshes import load_model

    toy_world.write_box(tmp_path / "box", (0.2, 0.2, 0.2))
    material = load_model(tmp_path / "box").material
    flipped = at()  # the plate's v axis points up in the picture
    flipped[:3, :3] = np.diag([1.0, -1.0, -1.0])
    seen = make_renderer(480, 640, backend=backend).render(
        stage(Part(plate(0.1, 0.1), material, flipped, OBJECT))
    )
    top, left, right = seen.rgb[150, 320], seen.rgb[300, 260], seen.rgb[300, 380]
    assert (top.argmax(), left.argmax(), right.argmax()) == (2, 0, 1)


@both_backends
def test_measure_visibility_counts_hidden_and_outside_parts(backend):
    renderer = make_renderer(480, 640, backend=backend)
    hand = Part(plate(0.0507, 0.0493), GREY, at(x=-0.15), HAND)
    blind = Part(plate(0.05, 0.1), GREY, at(x=-0.17 * 0.8, z=0.4), BACKGROUND)
    half_out = Part(plate(0.0507, 0.0493), GREY, at(x=320 / 600 * 0.5), OBJECT)

    def shares(*parts):
        scene = stage(*parts)
        return measure_visibility(renderer, scene, renderer.render(scene))

    alone = shares(hand, half_out)
    assert alone.hand > 0.97
    assert abs(alone.object - 0.5) < 0.02
    covered = shares(hand, half_out, blind)
    assert 0.02 < covered.hand < 0.35
    assert np.isnan(shares(hand).object)


def test_make_renderer_falls_back_without_egl(monkeypatch):
    def refuse(**_):
        raise RuntimeError("libEGL is missing")

    monkeypatch.setattr(moderngl, "create_context", refuse)
    assert isinstance(make_renderer(48, 64), CpuRenderer)
    with pytest.raises(UserError, match="libEGL is missing"):
        make_renderer(48, 64, backend="gl")


def test_make_renderer_raises_on_an_unknown_backend():
    with pytest.raises(UserError, match="vulkan"):
        make_renderer(48, 64, backend="vulkan")


def test_hand_skin_maps_every_corner_into_its_own_block():
    hand = toy_world.hand_shape()
    tips = hand.template_vertices[hand.tip_ids]
    skin = HandSkin(hand.template_vertices, hand.closed_faces, hand.joints, tips)
    mesh = skin.mesh(hand.template_vertices)
    assert len(mesh.uvs) == 3 * len(hand.closed_faces)
    blocks = np.floor(mesh.uvs * [40, 40]).reshape(-1, 3, 2)
    assert (blocks == blocks[:, :1]).all()
    assert len(np.unique(blocks[:, 0], axis=0)) == len(hand.closed_faces)
    light = skin.material(0.0, np.ones(3)).texture.astype(float)
    dark = skin.material(5.0, np.ones(3)).texture.astype(float)
    assert light.mean() > dark.mean() + 60


def test_through_lens_is_repeatable_and_keeps_the_mean():
    picture = np.full((480, 640, 3), 128, np.uint8)
    once = through_lens(picture, np.random.default_rng(3))
    again = through_lens(picture, np.random.default_rng(3))
    np.testing.assert_array_equal(once, again)
    assert 0.3 < once.std() < 6
    assert abs(once.mean() - 128) < 0.7


def test_render_processes_import_no_jax():
    code = (
        "import sys, homae_jax.synthetic.worker; "
        "print({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'flax'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
