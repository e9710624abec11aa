"""The convert entry point: what it writes, and what it refuses to."""

import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from homae_jax import assembly, convert
from homae_jax.errors import UserError
from homae_jax.hand import mano_files
from homae_jax.models import dinov2
from tests.hand.built_hand import built_hand

SIZES = dinov2.Variant(4, 16, 1, 2, 32)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Weights of a tiny variant under the Hub's names."""
    monkeypatch.setattr(dinov2, "VARIANTS", {**dinov2.VARIANTS, "tiny": SIZES})
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.cls_token": (1, 1, 16),
        "embeddings.mask_token": (1, 16),
        "embeddings.position_embeddings": (1, 26, 16),
        "embeddings.patch_embeddings.projection.weight": (16, 3, 4, 4),
        "embeddings.patch_embeddings.projection.bias": (16,),
        "layernorm.weight": (16,),
        "layernorm.bias": (16,),
    }
    block = "encoder.layer.0."
    for name in ("attention.attention.query", "attention.attention.key"):
        shapes |= {f"{block}{name}.weight": (16, 16), f"{block}{name}.bias": (16,)}
    for name in ("attention.attention.value", "attention.output.dense"):
        shapes |= {f"{block}{name}.weight": (16, 16), f"{block}{name}.bias": (16,)}
    for k in (1, 2):
        shapes |= {f"{block}norm{k}.{part}": (16,) for part in ("weight", "bias")}
        shapes[f"{block}layer_scale{k}.lambda1"] = (16,)
    shapes |= {f"{block}mlp.fc1.weight": (32, 16), f"{block}mlp.fc1.bias": (32,)}
    shapes |= {f"{block}mlp.fc2.weight": (16, 32), f"{block}mlp.fc2.bias": (16,)}
    path = tmp_path / "model.npz"
    state = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    np.savez(path, **state)
    return path


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors"])
def test_convert_dinov2_round_trips(source, tmp_path, name, capsys):
    out = tmp_path / name
    assert convert.main(["dinov2", "--src", str(source), "--out", str(out)]) == 0
    assert "DINOv2 tiny" in capsys.readouterr().out
    options = {"variant": "tiny", "image_size": 12}
    before = dinov2.load_dinov2(source, **options)
    after = dinov2.load_dinov2(out, **options)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("is_converted", [False, True])
def test_training_starts_from_either_file(
    source, tmp_path, monkeypatch, capsys, is_converted
):
    config = common.get_config()
    config.data.image_size = 12
    config.model.encoder.update(variant="tiny", weights=str(source))
    if is_converted:
        out = tmp_path / "out.safetensors"
        assert convert.main(["dinov2", "--src", str(source), "--out", str(out)]) == 0
        config.model.encoder.weights = str(out)
    monkeypatch.setattr(assembly, "init_params", lambda *_, **__: {"vit": 0, "sdf": 1})
    parts = assembly.Parts(*(None,) * len(assembly.Parts._fields))
    params = assembly.initial_params(config, parts)
    wanted = dinov2.load_dinov2(source, variant="tiny", image_size=12)
    jax.tree.map(np.testing.assert_array_equal, params["vit"], wanted)
    assert params["sdf"] == 1
    assert config.model.encoder.weights in capsys.readouterr().out


def test_a_missing_weights_file_is_named_before_anything_is_compiled(monkeypatch):
    config = common.get_config()
    config.model.encoder.weights = "gone.npz"
    monkeypatch.setattr(assembly, "init_params", pytest.fail)
    parts = assembly.Parts(*(None,) * len(assembly.Parts._fields))
    said = r"^--config\.model\.encoder\.weights: gone\.npz: no such weights file"
    with pytest.raises(UserError, match=said):
        assembly.initial_params(config, parts)


def test_convert_dinov2_states_variant_and_statistics(source, tmp_path):
    out = tmp_path / "out.safetensors"
    convert.convert_dinov2(source, out)
    _, metadata = dinov2.read_weights(out)
    assert metadata["variant"] == "tiny"
    assert metadata["image_mean"] == list(dinov2.IMAGE_MEAN)


def test_convert_replaces_only_when_told(source, tmp_path, capsys):
    out = tmp_path / "out.npz"
    out.write_text("precious")
    arguments = ["dinov2", "--src", str(source), "--out", str(out)]
    assert convert.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert convert.main([*arguments, "--overwrite"]) == 0
    assert dinov2.read_weights(out)[1]["variant"] == "tiny"


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[:-2000])


def spoil_key(path):
    with np.load(path) as file:
        state = {k: file[k] for k in file.files if k != "layernorm.bias"}
    np.savez(path, **state)


@pytest.mark.parametrize(
    "spoil, options, text",
    [
        (spoil_truncated, [], "cannot be read"),
        (spoil_key, [], "missing layernorm.bias"),
        (lambda path: None, ["--variant", "vitb14"], "holds tiny, not vitb14"),
        (lambda path: path.unlink(), [], "no such weights file"),
    ],
)
def test_convert_writes_nothing_from_a_bad_file(
    source, tmp_path, capsys, spoil, options, text
):
    spoil(source)
    out = tmp_path / "out.npz"
    before = sorted(tmp_path.iterdir())
    arguments = ["dinov2", "--src", str(source), "--out", str(out), *options]
    assert convert.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert text in captured.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "out, text", [("out.bin", "must end in"), ("nowhere/out.npz", "no folder")]
)
def test_convert_refuses_outputs_it_cannot_write(source, tmp_path, capsys, out, text):
    arguments = ["dinov2", "--src", str(source), "--out", str(tmp_path / out)]
    assert convert.main(arguments) == 2
    assert text in capsys.readouterr().err


def test_convert_leaves_nothing_when_writing_fails(
    source, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "_write_npz", fail)
    before = sorted(tmp_path.iterdir())
    out = str(tmp_path / "out.npz")
    assert convert.main(["dinov2", "--src", str(source), "--out", out]) == 2
    assert f"error: {out}: no space left" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors"])
def test_others_may_read_what_convert_writes(source, tmp_path, name):
    convert.convert_dinov2(source, tmp_path / name)
    (tmp_path / "plain").touch()
    modes = [(tmp_path / n).stat().st_mode for n in (name, "plain")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "what to convert is missing: dinov2 or mano"),
        (["mano", "--out=x.npz"], "--src=... is missing"),
        (["mano", "--bogus"], "unrecognized arguments: --bogus"),
        (["hand"], "invalid choice: 'hand'"),
    ],
)
def test_convert_names_a_mistyped_command_line(arguments, text, capsys):
    assert convert.main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error and error.startswith("error: ") and error.count("\n") == 1


def test_convert_ends_in_a_line_on_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "convert_mano", interrupt)
    assert convert.main(["mano", "--src=x", f"--out={tmp_path}/out.npz"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.fixture
def mano_pickle(tmp_path):
    """The project's own hand in the official layout."""
    path = tmp_path / "MANO_RIGHT.pkl"
    mano_files.write_mano_pkl(built_hand(), path)
    return path


def test_convert_mano_round_trips(mano_pickle, tmp_path, capsys):
    out = tmp_path / "right.npz"
    assert convert.main(["mano", "--src", str(mano_pickle), "--out", str(out)]) == 0
    assert "MANO right hand" in capsys.readouterr().out
    before, after = mano_files.load_mano(mano_pickle), mano_files.load_mano(out)
    jax.tree.map(np.testing.assert_array_equal, before, after)


class Executes:
    """A pickle of this touches a file when a plain reader opens it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_convert_mano_executes_and_writes_nothing(tmp_path, capsys):
    source, out = tmp_path / "MANO_RIGHT.pkl", tmp_path / "right.npz"
    source.write_bytes(pickle.dumps({"f": Executes(tmp_path / "executed")}))
    assert convert.main(["mano", "--src", str(source), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["MANO_RIGHT.pkl"]


def test_convert_mano_refuses_the_other_hand(mano_pickle, tmp_path, capsys):
    out = tmp_path / "left.npz"
    arguments = ["mano", "--src", str(mano_pickle), "--out", str(out), "--side", "left"]
    assert convert.main(arguments) == 2
    assert "holds a right hand" in capsys.readouterr().err
    assert not out.exists()
