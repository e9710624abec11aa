"""Vision transformer in the shape of DINOv2, with a patch or a convolutional stem.

Facts of DINOv2 kept exactly, so that its weights load unchanged: class token first,
then registers (without position), then patches in row-major order; pre-norm blocks with
a fused qkv and LayerScale; exact GELU or SwiGLU; LayerNorm eps 1e-6 and a final one.
Parameters are float32; matrix products run in ``dtype``; every LayerNorm, the softmax
and the sums of LayerNorm statistics stay in float32. Images are NHWC and normalised.

The convolutional stem ("conv") is this project's own: it makes the same grid of tokens
and exists to be trained from scratch on a CPU, where a plain ViT does not get going.
"""

import operator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.errors import UserError
from homae_jax.models.activations import gelu, swiglu
from homae_jax.models.attention import self_attention
from homae_jax.models.norms import LayerNorm
from homae_jax.models.products import between, dense, einsum
from homae_jax.models.xla_cpu import written_out

STEM_STAGES = 5  # of ConvStem: four halvings and one at the token grid
NORM_GROUPS = 8

_TOKEN_INIT = nn.initializers.truncated_normal(0.02)


class VitOutput(NamedTuple):
    """Tokens after the final norm."""

    patch_tokens: Float[Array, "b n d"]  # row-major over the grid
    cls: Float[Array, "b d"]
    registers: Float[Array, "b r d"]


class Attention(nn.Module):
    """Multi-head self-attention with one product for query, key and value."""

    num_heads: int
    implementation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        batch, num_tokens, width = x.shape
        qkv = dense(3 * width, self.dtype, name="qkv")(x)
        heads = (batch, num_tokens, self.num_heads, -1)
        y = self_attention(
            *(x.reshape(heads) for x in jnp.split(qkv, 3, axis=-1)),
            self.dtype,
            implementation=self.implementation,
        )
        y = y.reshape(batch, num_tokens, width)
        return dense(width, self.dtype, name="proj")(y)


class Mlp(nn.Module):
    """Dense, exact GELU, Dense."""

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        y = dense(self.hidden, self.dtype, name="fc1")(x)
        y = written_out(gelu(y, approximate=False))  # for the product and to be kept
        return dense(x.shape[-1], self.dtype, name="fc2")(y)


class SwiGlu(nn.Module):
    """Gated feed-forward of ViT-g: silu(first half) x second half."""

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        gate, value = jnp.split(
            dense(2 * self.hidden, self.dtype, name="w12")(x), 2, axis=-1
        )
        return dense(x.shape[-1], self.dtype, name="w3")(swiglu(gate, value))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale and stochastic depth."""

    num_heads: int
    hidden: int
    ffn: str
    layerscale_init: float
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], drop_path: Float[Array, ""] | None = None
    ) -> Float[Array, "b n d"]:
        """Tokens -> tokens; `drop_path` is the share of dropped branches, if any."""
        feed_forward = {"mlp": Mlp, "swiglu": SwiGlu}[self.ffn]
        attention = Attention(self.num_heads, self.attention, self.dtype, name="attn")
        y = attention(LayerNorm(name="norm1")(x))
        x = x + self._residual(y, "scale1", drop_path)
        y = feed_forward(self.hidden, self.dtype, name="mlp")(
            LayerNorm(name="norm2")(x)
        )
        return x + self._residual(y, "scale2", drop_path)

    def _residual(
        self, y: Float[Array, "b n d"], name: str, drop_path: Float[Array, ""] | None
    ) -> Float[Array, "b n d"]:
        init = nn.initializers.constant(self.layerscale_init)
        gamma = self.param(name, init, (y.shape[-1],)).astype(y.dtype)
        y = y * gamma[None, None]
        if drop_path is None:
            return y
        # One draw per sample and branch, the same for all its tokens.
        keep = 1.0 - drop_path
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (len(y), 1, 1))
        return jnp.where(kept, y / keep.astype(y.dtype), 0)


class PatchEmbed(nn.Module):
    """A convolution whose stride is its size, as the product that it is."""

    patch: int
    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b gh gw d"]:
        shape = (self.patch, self.patch, image.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        patches = _fold(image.astype(between(self.dtype)), self.patch)
        y = einsum(
            "mk,kn->mn",
            patches.reshape(-1, patches.shape[-1]),
            jnp.asarray(kernel).reshape(-1, self.width),
            self.dtype,
        )
        return (y + bias[None]).reshape(*patches.shape[:-1], self.width)


class ResidualConvBlock(nn.Module):
    """Two 3x3 convolutions, each after a GroupNorm, round a skip."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x
        for i in range(2):
            y = nn.GroupNorm(
                NORM_GROUPS, dtype=between(self.dtype), name=f"norm{i + 1}"
            )(y)
            y = nn.Conv(
                x.shape[-1],
                (3, 3),
                dtype=between(self.dtype),
                use_bias=False,
                name=f"conv{i + 1}",
            )(nn.relu(y))
        return x + y


class ConvStem(nn.Module):
    """Five convolutional stages from pixels to the token grid (stride 16).

    A stage halves the resolution by a 2x2 patch product (on a CPU the gradient of a
    strided 3x3 convolution costs three times that of a plain one), then refines it by
    residual blocks. GroupNorm keeps no running statistics.
    """

    widths: tuple[int, ...]
    num_blocks: tuple[int, ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw c"]:
        x = image.astype(between(self.dtype))
        for stage, (width, num_blocks) in enumerate(
            zip(self.widths, self.num_blocks, strict=True)
        ):
            if stage < STEM_STAGES - 1:
                x = _fold(x, 2)
            x = dense(width, self.dtype, name=f"project_{stage}")(x)
            for block in range(num_blocks):
                x = ResidualConvBlock(self.dtype, name=f"stage_{stage}_{block}")(x)
        return x


class Vit(nn.Module):
    """Image -> tokens (HOMAE eq. 8); the variants are in models/dinov2.py."""

    image_size: int
    patch: int
    width: int
    depth: int
    num_heads: int
    mlp_hidden: int
    ffn: str = "mlp"  # "mlp" | "swiglu"
    num_registers: int = 0
    layerscale_init: float = 1e-5
    stem: str = "patch"  # "patch" | "conv"
    stem_widths: tuple[int, ...] = ()  # of the "conv" stem, as stem_blocks
    stem_blocks: tuple[int, ...] = ()
    drop_path: float = 0.0  # of the last block, rising linearly from 0
    attention: str = "xla"  # "xla" | "cudnn"
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @property
    def grid(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // self.patch

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> VitOutput:
        """Encodes normalised images.

        Raises:
          UserError: the image is not the square of side `image_size`.
        """
        if image.shape[1:3] != (self.image_size, self.image_size):
            raise UserError(
                f"the encoder was built for {self.image_size} px square images, got "
                f"{image.shape[1]}x{image.shape[2]}: set data.image_size"
            )
        x = self._embed(image)
        if self.depth:
            x = self._blocks(x, train)
        x = LayerNorm(name="norm")(x)
        cls, registers, patches = jnp.split(x, [1, 1 + self.num_registers], axis=1)
        return VitOutput(patches, cls[:, 0], registers)

    def _blocks(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """All blocks: in training by one scan, else one after another.

        By the scan one block is traced and compiled for all. And it keeps the gradient
        cheap: of blocks written one after another XLA's CPU compiler forms the gradient
        of the residual stream anew, from the last block on, wherever a block needs it.
        But it must stack the parameters, a tenth of the time of a single picture.
        """
        block = Block(
            num_heads=self.num_heads,
            hidden=self.mlp_hidden,
            ffn=self.ffn,
            layerscale_init=self.layerscale_init,
            attention=self.attention,
            dtype=self.dtype,
            parent=None,
        )
        names = [f"blocks_{i}" for i in range(self.depth)]
        if self.is_initializing():
            keys = jax.random.split(self.make_rng("params"), self.depth)
            params = jax.vmap(lambda key: block.init(key, x)["params"])(keys)
            for i, name in enumerate(names):
                one = jax.tree.map(operator.itemgetter(i), params)
                self.put_variable("params", name, one)
        params = [self.get_variable("params", name) for name in names]
        if train:
            return self._scan(block, params, x)
        for name, block_params in zip(names, params, strict=True):
            x = block.apply({"params": block_params}, x)
            self.sow("intermediates", name, x)
        return x

    def _scan(self, block: Block, params: list, x: jax.Array) -> jax.Array:
        drop = None
        if self.drop_path > 0:
            rates = jnp.linspace(0.0, self.drop_path, self.depth)
            drop = rates, jax.random.split(self.make_rng("dropout"), self.depth)

        def step(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
            params, drop = inputs
            rate, rngs = (drop[0], {"dropout": drop[1]}) if drop else (None, None)
            return block.apply({"params": params}, x, rate, rngs=rngs), None

        if self.remat:
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            # Inside a scan nothing can be merged with its recomputation.
            step = jax.checkpoint(step, policy=policy, prevent_cse=False)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        x, _ = jax.lax.scan(step, x, (stacked, drop))
        return x

    def _embed(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Tokens as the first block sees them: class, registers, patches."""
        batch = image.shape[0]
        x = self._stem(image).reshape(batch, self.grid**2, self.width)
        cls = self.param("cls_token", _TOKEN_INIT, (1, self.width))
        position = self.param(
            "position_embedding", _TOKEN_INIT, (1 + self.grid**2, self.width)
        )
        prefix = cls + position[:1]
        if self.num_registers:
            shape = (self.num_registers, self.width)
            registers = self.param("register_tokens", _TOKEN_INIT, shape)
            prefix = jnp.concatenate([prefix, registers])
        prefix = jnp.broadcast_to(prefix[None], (batch, *prefix.shape))
        patches = x.astype(jnp.float32) + position[None, 1:]
        x = jnp.concatenate([prefix, patches], axis=1).astype(between(self.dtype))
        self.sow("intermediates", "embeddings", x)
        return x

    def _stem(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw c"]:
        image = written_out(image)  # masked and recoloured once, not for every reader
        if self.stem == "patch":
            return PatchEmbed(self.patch, self.width, self.dtype, name="patch_embed")(
                image
            )
        x = ConvStem(self.stem_widths, self.stem_blocks, self.dtype, name="stem")(image)
        x = nn.GroupNorm(NORM_GROUPS, dtype=between(self.dtype), name="stem_norm")(x)
        return dense(self.width, self.dtype, name="stem_out")(nn.relu(x))


def _fold(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h2 w2 d"]:
    """Puts each square of `size` pixels into the channels, row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    x = jnp.swapaxes(x, 2, 3)
    return x.reshape(batch, height // size, width // size, size**2 * channels)
