"""DINOv2 against the public implementations, stage by stage, with random weights.

Needs torch, transformers and timm; each test prints the largest difference it saw.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from homae_jax.benchmarks._peer_program import declare_operators

declare_operators(torch)
pytest.importorskip("transformers")

from flax import traverse_util

from homae_jax.models import dinov2
from tests.parity import make_dinov2_reference as reference

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the largest value of a stage
SMALL_GIANT = dinov2.Variant(14, 64, 2, 4, 176, ffn="swiglu")


def run_ours(state, sizes, image, *, grid, offset):
    """Stages of our encoder, its weights converted from `state`."""
    flat = dinov2.convert_state(state, sizes, name="random")
    flat["position_embedding"] = dinov2.resize_position_embedding(
        flat["position_embedding"],
        grid,
        offset=offset,
        antialias=sizes.position_antialias,
    )
    model = dinov2.make_vit(sizes, image.shape[1])
    _, found = model.apply(
        {"params": traverse_util.unflatten_dict(flat, sep="/")},
        jnp.asarray(image),
        train=False,
        capture_intermediates=True,
    )
    found = found["intermediates"]
    stages = {
        name: np.asarray(tokens[0])
        for name, tokens in found.items()
        if name.startswith(("blocks_", "embeddings"))
    }
    stages["norm"] = np.asarray(found["norm"]["__call__"][0])
    return stages


def compare(label, ours, theirs, stages):
    worst = {}
    for stage in stages:
        scale = np.abs(theirs[stage]).max()
        worst[stage] = np.abs(ours[stage] - theirs[stage]).max() / scale
    text = ", ".join(f"{stage} {value:.1e}" for stage, value in worst.items())
    print(f"\n{label}: largest relative difference: {text}")
    assert max(worst.values()) <= TOLERANCE


@pytest.mark.parametrize("image_size", [224, 252])
@pytest.mark.parametrize(
    "name", ["vits14", "vits14_reg", "vitb14", "vitb14_reg", "small_giant"]
)
def test_encoder_matches_transformers(name, image_size):
    sizes = SMALL_GIANT if name == "small_giant" else dinov2.VARIANTS[name]
    model = reference.make_model(
        width=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        patch=sizes.patch,
        image_size=dinov2.PRETRAINED_SIZE,
        ffn=sizes.ffn,
        num_registers=sizes.num_registers,
    )
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, image_size, image_size, 3), np.float32)
    theirs = reference.run_stages(model, image)
    state = reference.hub_state(model)
    # transformers resizes without DINOv2's offset of 0.1 cells; that is tested below.
    ours = run_ours(state, sizes, image, grid=image_size // sizes.patch, offset=0.0)
    middle = f"blocks_{sizes.depth // 2}"
    stages = ["embeddings", "blocks_0", middle, "norm"]
    compare(f"{name} at {image_size} px", ours, theirs, stages)


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"],
)
def test_encoder_matches_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=224).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    sizes = dinov2.VARIANTS["vits14_reg" if "reg4" in name else "vits14"]
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, 224, 224, 3), np.float32)
    with torch.no_grad():
        features = model.forward_features(
            torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        )
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    ours = run_ours(state, sizes, image, grid=16, offset=0.0)
    compare(name, ours, {"norm": features.numpy()}, ["norm"])


def test_swiglu_state_of_timm_converts():
    timm = pytest.importorskip("timm")
    from timm.layers import SwiGLUPacked

    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=70,
        patch_size=14,
        embed_dim=64,
        depth=2,
        num_heads=4,
        mlp_ratio=5.5,
        mlp_layer=SwiGLUPacked,
        act_layer=torch.nn.SiLU,
        init_values=1.0,
        num_classes=0,
        global_pool="token",
    ).eval()
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, 70, 70, 3), np.float32)
    with torch.no_grad():
        features = model.forward_features(
            torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        )
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    ours = run_ours(state, SMALL_GIANT, image, grid=5, offset=0.0)
    compare("timm SwiGLU", ours, {"norm": features.numpy()}, ["norm"])


@pytest.mark.parametrize("offset, antialias", [(0.1, False), (0.0, False), (0.0, True)])
@pytest.mark.parametrize("grid", [8, 16, 18, 24, 37, 40])
def test_resize_position_embedding_matches_torch(grid, offset, antialias):
    if grid == 37 and offset:
        pytest.skip("DINOv2 does not resize to the size it has")
    rng = np.random.default_rng(2)
    position = rng.standard_normal((1 + 37 * 37, 8), np.float32)
    options = {"offset": offset, "antialias": antialias}
    theirs = reference.resize_as_dinov2(position, grid, **options)
    ours = dinov2.resize_position_embedding(position, grid, **options)
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"\n37 -> {grid}, {options}: largest relative difference {worst:.1e}")
    assert worst <= TOLERANCE


def test_gradient_matches_transformers():
    model = reference.make_model(
        width=64, depth=2, num_heads=4, patch=14, image_size=70, num_registers=4
    )
    rng = np.random.default_rng(3)
    image = rng.standard_normal((1, 70, 70, 3), np.float32)
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).requires_grad_()
    weights = rng.standard_normal((1, 25, 64), np.float32)
    out = model(pixels).last_hidden_state[:, 5:]
    (out * torch.from_numpy(weights)).sum().backward()
    theirs = pixels.grad.numpy().transpose(0, 2, 3, 1)
    sizes = dinov2.Variant(14, 64, 2, 4, 256, num_registers=4)
    state = reference.hub_state(model)
    flat = dinov2.convert_state(state, sizes, name="random")
    params = {"params": traverse_util.unflatten_dict(flat, sep="/")}
    encoder = dinov2.make_vit(sizes, 70)

    def loss(x):
        return (encoder.apply(params, x, train=False).patch_tokens * weights).sum()

    ours = np.asarray(jax.grad(loss)(jnp.asarray(image)))
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"\ngradient: largest relative difference {worst:.1e}")
    assert worst <= TOLERANCE
