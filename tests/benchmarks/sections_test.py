"""What single sections compute beside time: agreement, overlap, peers."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trimesh

from configs import ho3d
from homae_jax import assembly, runtime
from homae_jax.benchmarks import (
    _peer,
    _peer_program,
    _setup,
    data,
    encoder,
    memory,
    predict,
    samplers,
    targets,
)
from homae_jax.benchmarks._measure import Measurement
from homae_jax.data.ho3d import Ho3dSource
from homae_jax.data.pictures import read_picture
from homae_jax.errors import UserError
from homae_jax.geometry.rotations import rot6d_to_rotmat
from homae_jax.models import points
from homae_jax.models.dinov2 import make_encoder
from homae_jax.models.homae import Homae
from homae_jax.objects.sdf_bake import bake_sdf, nearby_faces
from tests import toy
from tests.benchmarks import counting
from tests.data import ho3d_tree
from tests.proof import assert_close


def lattice(*points):
    return np.array([points], np.float32) * 2 / 15 - 1


def test_overlap_is_the_share_of_common_lattice_points():
    dense = lattice((0, 0, 0), (1, 2, 3), (15, 15, 15), (4, 4, 4))
    fine = lattice((1, 2, 3), (4, 4, 4), (0, 0, 0), (4, 4, 5))
    assert samplers.overlap(dense, fine, grid_size=16) == pytest.approx([0.75])


def test_disagreement_is_that_of_the_lattice():
    template = jax.tree.map(lambda table: table[1], toy.toy_templates())
    off = np.asarray(targets.disagreement(template, jax.random.key(0), 50))
    assert off.mean() < targets.LIMIT  # in spite of cells of 29 mm
    wrong = template._replace(sdf_nearest=jnp.zeros_like(template.sdf_nearest))
    more = np.asarray(targets.disagreement(wrong, jax.random.key(0), 50))
    assert more.mean() > 0.02


def test_stages_of_inference_make_what_the_whole_makes():
    _, variables, batch = counting.toy_inference()
    options = toy.toy_model_options()
    options["points"] |= {"sampler": "coarse_to_fine", "grid_size": 16}
    parts = assembly.Parts(
        Homae(**options), toy.toy_mano(), toy.toy_templates(), ("box", "ball")
    )
    setup = _setup.Setup(None, parts, None, batch, variables["params"])
    made = {
        name: function(*arguments)
        for name, (function, arguments) in predict.make_stages(setup, batch).items()
    }
    assert list(made) == [
        *("encoder", "decoder", "sampling of hand", "sampling of object"),
        *("head of hand", "head of object", "MANO"),
    ]
    answer, arguments = predict.whole(setup, batch)
    whole = answer(*arguments)
    rotmat = rot6d_to_rotmat(made["head of hand"].rot6d[-1])
    assert_close("rotation", rotmat, whole["hand_rotmat"], atol=1e-5)
    trans = jnp.mean(made["head of object"].trans_root[-1], axis=1)
    found = whole["object_trans"] - batch.object_center
    assert_close("translation", trans, found, atol=1e-5)


def test_encoders_run_forward_and_back():
    vit = make_encoder(toy.VARIANT, toy.IMAGE_SIZE, dtype=jnp.float32)
    image = jnp.ones((2, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3))
    params = encoder.initial(vit, image)
    assert encoder.forward(vit)(params, image).shape[0] == 2
    gradient = encoder.gradient(vit)(params, image)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


def test_a_peer_that_is_not_named_is_passed_over(capsys):
    options = argparse.Namespace(peer="", repeats=1)
    assert list(_peer.run("nothing", {"what": "dinov2"}, options, {})) == []
    assert "no peer" in capsys.readouterr().err


def test_a_peer_is_not_compared_with_an_accelerator(capsys, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = argparse.Namespace(peer=sys.executable, repeats=1)
    assert list(_peer.run("dinov2", {"what": "dinov2"}, options, {})) == []
    assert "JAX_PLATFORMS=cpu" in capsys.readouterr().err


def test_a_peer_that_is_absent_is_passed_over(capsys):
    """This Python has no torch."""
    options = argparse.Namespace(peer=sys.executable, repeats=1)
    found = list(_peer.run("dinov2", {"what": "dinov2"}, options, {}))
    assert found == [] and "absent" in capsys.readouterr().err


def test_a_peer_is_compared_with_ours(tmp_path):
    program = tmp_path / "python"
    answer = [_peer_program.measure(lambda: None, "forward", "1", 1, 3)]
    answer[0] |= {"median_s": 3.0, "fastest_s": 2.0, "fastest_processor_s": 4.0}
    text = str(answer).replace("'", '"')
    program.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{text}'\n")
    program.chmod(0o755)
    values = answer[0] | {"median_s": 4.0, "fastest_s": 4.0, "fastest_processor_s": 4.0}
    values["count"] = 4  # examples in a call, where the peer has one
    values.pop("key")
    ours = {"forward": Measurement(name="ours", **values)}
    options = argparse.Namespace(peer=str(program), repeats=3)
    (result,) = _peer.run("it", {}, options, ours)
    assert result.name == "peer: it forward"
    assert result.figures == {
        "times_ours_median": 3.0,
        "times_ours_fastest": 2.0,
        "times_ours_processor": 4.0,
    }


def test_hoisdf_crops_the_pictures_that_ours_are_cropped_from(tmp_path):
    source = Ho3dSource(ho3d_tree.write_tree(tmp_path), "train")
    request = data._peer_request(source, [0, 1])
    assert request["what"] in _peer_program.PEERS
    for row, frame in enumerate(json.loads(json.dumps(request))["frames"]):
        ours = source[row]
        assert (read_picture(Path(frame["path"])) == ours["image"]).all()
        at = ours["joints"] @ ours["intrinsics"].T
        assert_close("hand", frame["hand_px"], at[:, :2] / at[:, 2:], atol=1e-6)
        assert np.shape(frame["object_px"]) == (8, 2)
        assert request["size"] == [*ours["image"].shape[1::-1]]


def test_attention_that_cannot_be_had_is_not_measured(monkeypatch):
    options = toy.toy_model_options() | {"dtype": "bfloat16"}
    options["encoder"] = {**options["encoder"], "attention": "cudnn"}
    parts = assembly.Parts(Homae(**options), None, None, ())
    monkeypatch.setattr(assembly, "build_parts", lambda config: parts)
    with pytest.raises(UserError, match="attention=cudnn needs an NVIDIA GPU"):
        _setup.build(argparse.Namespace(config=None, batch=1))


FAULTS = """
import resource
import _peer_program
import numpy as np
def fill(request):
    np.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)
    return [{"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}]
_peer_program.PEERS = {"fill": fill}
_peer_program.main()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_peer_keeps_its_memory_as_ours_does_and_says_so():
    environment = {**os.environ, "PYTHONPATH": str(_peer.PROGRAM.parent)}
    environment.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        input=json.dumps({"what": "fill"}),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (answer,) = json.loads(done.stdout)
    assert answer["note"] == "peer keeps memory"
    assert answer["faults"] <= 8  # without: 64 large pages or 32,768


def test_a_peer_that_fails_is_an_error_in_one_line(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    program.chmod(0o755)
    options = argparse.Namespace(peer=str(program), repeats=1)
    with pytest.raises(UserError, match="no such thing"):
        list(_peer.run("it", {}, options, {}))


def test_a_baked_lattice_agrees_with_the_mesh_near_the_surface():
    """Half a millimetre at the pitch that the largest objects get."""
    mesh = trimesh.creation.capsule(height=0.08, radius=0.03, count=(16, 16))
    vertices, faces = mesh.vertices, mesh.faces.astype(np.int32)
    size = 32
    grid, origin, pitch, nearest = bake_sdf(vertices, faces, size, 0.02)
    assert pitch == pytest.approx(0.18 / (size - 1), rel=0.02)  # nearly 6 mm
    template = toy.toy_templates()._replace(
        vertices=vertices.astype(np.float32),
        faces=faces,
        sdf_grid=np.asarray(grid, np.float32),
        sdf_origin=np.asarray(origin, np.float32),
        sdf_pitch=np.float32(pitch),
        sdf_nearest=nearest,
        nearby_faces=nearby_faces(vertices, faces, 12),
    )
    template = toy.on_device(template)
    off = np.asarray(targets.disagreement(template, jax.random.key(0), 400))
    assert off.mean() <= targets.LIMIT / 50
    assert off.max() <= targets.LIMIT


def test_hoisdf_is_asked_about_the_same_scenes_in_its_larger_crops():
    _, _, batch = counting.toy_inference()
    options = argparse.Namespace(peer_dtype="bfloat16")
    request = _peer.hoisdf_request("inference", batch, options)
    assert request["what"] in _peer_program.PEERS
    assert request["batch"] == len(batch.image) and request["dtype"] == "bfloat16"
    zoom = _peer.HOISDF_SIDE / toy.IMAGE_SIZE
    scene = request["scene"]
    assert_close(
        "box", scene["hand_box"], zoom * np.asarray(batch.hand_box_px), atol=1e-3
    )
    ours = points.project_points(
        jnp.zeros((len(batch.image), 1, 3)), batch.wrist, batch.intrinsics, scale=1.0
    )
    at = np.einsum("bij,bj->bi", scene["intrinsics"], scene["hand_origin"])
    assert_close(
        "wrist", at[:, :2] / at[:, 2:], zoom * np.asarray(ours[:, 0]), atol=1e-3
    )


@pytest.mark.parametrize(
    ("variant", "peer", "backend", "expected"),
    [
        ("vits14", "", "cpu", True),
        ("vits14", "python", "cpu", False),
        ("vits14", "", "gpu", False),
        ("vit_tiny", "", "cpu", False),
    ],
)
def test_hoisdf_elsewhere_is_compared_only_with_what_is_alike(
    variant, peer, backend, expected, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config, options = ho3d.get_config(), argparse.Namespace(peer=peer)
    config.model.encoder.variant = variant
    assert _peer.is_as_measured_elsewhere(config, options) == expected
    blank = dict.fromkeys(Measurement._fields, 1)
    figures = predict._figures(config, Measurement(**blank), expected)
    assert expected == any("elsewhere" in name for name in figures)


def where(options, accumulate):
    if accumulate > 1:
        raise MemoryError("RESOURCE_EXHAUSTED: too little\nand more")
    return os.getpid(), "process"


def test_memory_of_a_step_is_that_of_a_process_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(memory, "_run_steps", where)
    found, whose = memory._peak_apart(argparse.Namespace(), 1)
    assert whose == "process" and found != os.getpid()
    assert memory._peak_apart(argparse.Namespace(), 2) is None
    refused = "a step in 2 passes does not run: RESOURCE_EXHAUSTED: too little\n"
    assert capsys.readouterr().err == refused


def test_memory_of_a_step_is_planned_and_run(monkeypatch):
    config, calls = ho3d.get_config(), []

    def step(state, batch):
        jax.debug.callback(lambda step: calls.append(int(step)), state.step)
        return state._replace(step=state.step + 1), {}

    weights = {"w": jax.ShapeDtypeStruct((2**26,), jnp.float32)}
    model = argparse.Namespace(dtype="bfloat16")
    parts = assembly.Parts(model, None, None, ())
    monkeypatch.setattr(assembly, "build_parts", lambda config: parts)
    monkeypatch.setattr(assembly, "param_shapes", lambda config, parts: weights)
    monkeypatch.setattr(memory, "build_step", lambda *_, **__: (step, optax.sgd(0.1)))
    monkeypatch.setattr(memory, "_peak_apart", memory._run_steps)
    monkeypatch.setattr(runtime, "keep_memory", lambda: None)
    options = argparse.Namespace(config=config, batch=2, accumulate=[2], run=True)
    (result,) = memory.run(options)
    jax.effects_barrier()
    assert calls == [0, 1]
    assert result.figures["peak_gib"] * 2**30 == result.peak_bytes
    assert result.peak_bytes > result.planned_bytes > 2**28
    assert "2 steps in a process of their own" in result.note
