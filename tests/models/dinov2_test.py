"""Weights of DINOv2: values against stored references, strictness, files.

tests/parity/make_dinov2_reference.py made the references with torch and transformers.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from homae_jax.errors import UserError
from homae_jax.models import dinov2

DATA = Path(__file__).parents[1] / "parity" / "data" / "dinov2_reference.npz"
PLAIN = dinov2.Variant(4, 16, 2, 2, 64)
SIZES = {
    "plain": PLAIN,
    "registers": PLAIN._replace(num_registers=4),
    "swiglu": PLAIN._replace(mlp_hidden=48, ffn="swiglu"),
}


@pytest.fixture(scope="module")
def reference():
    with np.load(DATA) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def tiny_variants(monkeypatch):
    known = {**dinov2.VARIANTS, **{f"tiny_{k}": v for k, v in SIZES.items()}}
    monkeypatch.setattr(dinov2, "VARIANTS", known)


def hub_state(reference, case):
    prefix = f"{case}/state/"
    return {
        key.removeprefix(prefix): value
        for key, value in reference.items()
        if key.startswith(prefix)
    }


def official_state(state):
    """The official names, spelled out here independently of the module's table."""
    out = {}
    for key, value in state.items():
        parts = re.match(
            r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(.+)", key
        )
        if parts:
            name = key.replace("query", "{}")
            rows = [state[name.format(x)] for x in ("query", "key", "value")]
            out[f"blocks.{parts[1]}.attn.qkv.{parts[2]}"] = np.concatenate(rows)
        elif "attention.attention" not in key:
            out[rename_to_official(key)] = value
    return out


def rename_to_official(key):
    for old, new in (
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.", ""),
        ("encoder.layer.", "blocks."),
        ("attention.output.dense", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("weights_in", "w12"),
        ("weights_out", "w3"),
        ("layernorm.", "norm."),
    ):
        key = key.replace(old, new)
    return key


def timm_state(state):
    """timm's names and its merged class token, likewise independent."""
    out = official_state(state)
    del out["mask_token"]
    if "register_tokens" in out:
        out["reg_token"] = out.pop("register_tokens")
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
    return {k.replace("w12", "fc1").replace("w3", "fc2"): v for k, v in out.items()}


NAMINGS = {"hub": dict, "official": official_state, "timm": timm_state}


def run_stages(flat, sizes, image):
    model = dinov2.make_vit(sizes, image.shape[1])
    params = {"params": traverse_util.unflatten_dict(flat, sep="/")}
    _, found = model.apply(
        params, jnp.asarray(image), train=False, capture_intermediates=True
    )
    found = found["intermediates"]
    stages = {
        name: tokens[0]
        for name, tokens in found.items()
        if name.startswith(("blocks_", "embeddings"))
    }
    return {**stages, "norm": found["norm"]["__call__"][0]}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("case", SIZES)
def test_encoder_matches_stored_stages(reference, case, naming):
    state = NAMINGS[naming](hub_state(reference, case))
    flat = dinov2.convert_state(state, SIZES[case], name="file")
    stages = run_stages(flat, SIZES[case], reference[f"{case}/image"])
    for stage in ("embeddings", "blocks_0", "blocks_1", "norm"):
        wanted = reference[f"{case}/{stage}"]
        worst = np.abs(stages[stage] - wanted).max() / np.abs(wanted).max()
        assert worst <= 1e-5, stage


@pytest.mark.parametrize("offset, antialias", [(0.1, False), (0.0, False), (0.0, True)])
@pytest.mark.parametrize("grid", [8, 16, 40])
def test_resize_position_embedding_matches_stored(reference, grid, offset, antialias):
    resized = dinov2.resize_position_embedding(
        reference["position/source"], grid, offset=offset, antialias=antialias
    )
    wanted = reference[f"position/{grid}/{offset}/{antialias}"]
    np.testing.assert_allclose(resized, wanted, atol=2e-5)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("case", SIZES)
def test_detect_variant_finds_naming_and_sizes(reference, tiny_variants, case, naming):
    state = NAMINGS[naming](hub_state(reference, case))
    # Without mask token, registers or gate the two namings are the same.
    assert dinov2.detect_naming(state, "file") == naming
    assert dinov2.detect_variant(state, "file") == f"tiny_{case}"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_load_dinov2_fits_the_encoder(reference, tiny_variants, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    state = hub_state(reference, "registers")
    save_file(state, path) if suffix == ".safetensors" else np.savez(path, **state)
    params = dinov2.load_dinov2(path, variant="tiny_registers", image_size=28)
    encoder = dinov2.make_encoder("tiny_registers", 28)
    image = jnp.zeros((1, 28, 28, 3))
    fresh = encoder.init(jax.random.key(0), image, train=False)["params"]
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), params, fresh)
    out = encoder.apply({"params": params}, image, train=False)
    assert jnp.all(jnp.isfinite(out.patch_tokens))


def test_public_variants_have_the_published_sizes():
    millions = {"vits14": 22, "vitb14": 86, "vitl14": 304, "vitg14": 1136}
    for name, wanted in millions.items():
        shapes = dinov2.expected_shapes(dinov2.VARIANTS[name], 37)
        count = sum(int(np.prod(shape)) for shape in shapes.values())
        assert round(count / 1e6) in (wanted, wanted + 1), name


def test_registers_are_four_tokens_and_nothing_else():
    plain, registers = (
        dinov2.expected_shapes(dinov2.VARIANTS[name], 37)
        for name in ("vits14", "vits14_reg")
    )
    assert registers.pop("register_tokens") == (4, 384)
    assert registers == plain
    for name in ("vits14", "vitb14", "vitl14", "vitg14"):
        *sizes, num_registers = dinov2.VARIANTS[f"{name}_reg"][:7]
        assert (sizes, num_registers) == (list(dinov2.VARIANTS[name][:6]), 4)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda s: s.pop("layernorm.bias"), "missing layernorm.bias"),
        (lambda s: s.update(head=np.zeros(3)), "not known head"),
        (
            lambda s: s.update({"layernorm.bias": np.zeros(7, np.float32)}),
            r"wrong shape: norm/bias \(7,\) for \(16,\)",
        ),
        (
            lambda s: s.update(
                {"embeddings.position_embeddings": np.zeros((1, 20, 16), np.float32)}
            ),
            r"wrong shape: position_embedding \(20, 16\)",
        ),
    ],
)
def test_convert_state_raises_on_any_difference(reference, change, text):
    state = hub_state(reference, "plain")
    change(state)
    with pytest.raises(UserError, match=text) as raised:
        dinov2.convert_state(state, PLAIN, name="file")
    assert "\n" not in str(raised.value)


def test_load_dinov2_raises_on_another_variant(reference, tiny_variants, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(hub_state(reference, "plain"), path)
    with pytest.raises(UserError, match="holds tiny_plain, the config asks for vitb14"):
        dinov2.load_dinov2(path, variant="vitb14", image_size=224)


def test_load_dinov2_raises_on_other_sizes(reference, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(hub_state(reference, "plain"), path)
    with pytest.raises(UserError, match="width 16, depth 2, 0 registers"):
        dinov2.load_dinov2(path, variant="vitb14", image_size=224)


def test_load_dinov2_raises_on_other_image_statistics(
    reference, tiny_variants, tmp_path
):
    path = tmp_path / "model.safetensors"
    save_file(hub_state(reference, "plain"), path)
    beside = tmp_path / "preprocessor_config.json"
    stated = {"image_mean": list(dinov2.IMAGE_MEAN), "image_std": [0.5, 0.5, 0.5]}
    beside.write_text(json.dumps(stated))
    with pytest.raises(UserError, match="normalised by"):
        dinov2.load_dinov2(path, variant="tiny_plain", image_size=20)
    stated["image_std"] = list(dinov2.IMAGE_STD)
    beside.write_text(json.dumps(stated))
    dinov2.load_dinov2(path, variant="tiny_plain", image_size=20)


@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_read_weights_raises_on_a_truncated_file(reference, tmp_path, name):
    path = tmp_path / name
    state = hub_state(reference, "plain")
    save_file(state, path) if path.suffix != ".npz" else np.savez(path, **state)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="cannot be read") as raised:
        dinov2.read_weights(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["absent.npz", "model.ckpt", "absent.safetensors"])
def test_read_weights_raises_on_what_is_no_weights_file(tmp_path, name):
    with pytest.raises(UserError, match=r"no such|ending in"):
        dinov2.read_weights(tmp_path / name)


def test_read_weights_reads_torch_files_without_executing(reference, tmp_path):
    torch = pytest.importorskip("torch")
    state = official_state(hub_state(reference, "plain"))
    path = tmp_path / "model.pth"
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, path)
    found, _ = dinov2.read_weights(path)
    np.testing.assert_array_equal(found["pos_embed"], state["pos_embed"])

    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"x": Bad()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        dinov2.read_weights(path)
    assert not (tmp_path / "executed").exists()


def test_read_weights_says_when_torch_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = tmp_path / "model.pth"
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="needs PyTorch"):
        dinov2.read_weights(path)
