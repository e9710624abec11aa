"""Pose heads: transformers over point tokens (HOMAE eq. 15-16, layers of HOISDF).

Post-norm transformer blocks. Every layer is supervised, hence outputs carry a leading
layer axis; the last entry is the answer. Rotations leave as 6D (hand: two first
columns of the matrix) or as configured (object).
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from homae_jax.models.attention import attention_with_dropout
from homae_jax.models.norms import LayerNorm
from homae_jax.models.products import between, dense, dot_general_in, read_out
from homae_jax.models.xla_cpu import written_out

NUM_ROTATIONS = 16
NUM_VOTED_JOINTS = 20  # all but the wrist, which is the origin
IDENTITY_ROT6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class TransformerLayer(nn.Module):
    """Self-attention, optional cross-attention and an MLP, each with post-norm."""

    num_heads: int
    width_mlp: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        memory: Float[Array, "b m d"] | None = None,
        self_mask: Bool[Array, "1 1 n n"] | None = None,
        position: Float[Array, "1 n d"] | None = None,
        train: bool,
    ) -> Float[Array, "b n d"]:
        def attention(name: str) -> nn.MultiHeadDotProductAttention:
            return nn.MultiHeadDotProductAttention(
                self.num_heads,
                dtype=between(self.dtype),
                dropout_rate=self.dropout,
                deterministic=not train,
                attention_fn=attention_with_dropout(self.dtype),
                qkv_dot_general=dot_general_in(self.dtype),
                out_dot_general=dot_general_in(self.dtype),
                name=name,
            )

        def add(x: Array, update: Array, name: str) -> Array:
            update = nn.Dropout(self.dropout, deterministic=not train)(update)
            # Else the drawing of what is dropped is repeated wherever the sum is read.
            total = written_out(x + update) if train else x + update
            return LayerNorm(between(self.dtype), name=name)(total)

        query = x if position is None else x + position
        x = add(
            x,
            attention("self")(query, inputs_k=query, inputs_v=x, mask=self_mask),
            "norm_self",
        )
        if memory is not None:
            query = x if position is None else x + position
            x = add(
                x,
                attention("cross")(query, inputs_k=memory, inputs_v=memory),
                "norm_cross",
            )
        hidden = nn.relu(dense(self.width_mlp, self.dtype, name="mlp_0")(x))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        update = dense(x.shape[-1], self.dtype, name="mlp_1")(hidden)
        return add(x, update, "norm_mlp")


class Mlp(nn.Module):
    """Three dense layers whose last one starts small; float32 out."""

    width: int
    width_out: int
    bias_init: Callable = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        x = nn.relu(dense(self.width, self.dtype, name="dense_0")(x))
        x = nn.relu(dense(self.width, self.dtype, name="dense_1")(x))
        return read_out(
            self.width_out,
            self.dtype,
            kernel_init=nn.initializers.variance_scaling(
                0.1, "fan_in", "truncated_normal"
            ),
            bias_init=self.bias_init,
            name="out",
        )(x)


def identity_bias(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Bias with which a 6D rotation output starts at the identity."""
    del key
    return jnp.resize(jnp.array(IDENTITY_ROT6D, dtype), shape)


def query_mask() -> Bool[Array, "1 1 17 17"]:
    """Which hand queries see each other: root, each finger, shape (HOISDF)."""
    block = np.array([0] + [1 + j // 3 for j in range(15)] + [6])
    return jnp.asarray(block[:, None] == block[None, :])[None, None]


class HandHeadOutput(NamedTuple):
    rot6d: Float[Array, "l b 16 6"]
    betas: Float[Array, "l b 10"]
    vote_offsets_root: Float[Array, "lv b p 20 3"]  # metres
    vote_logits: Float[Array, "lv b p 20"]


class HandHead(nn.Module):
    """Point tokens -> joint votes (encoder) and MANO parameters (decoder)."""

    num_heads: int
    width_mlp: int
    dropout: float
    encoder_layers: int
    decoder_layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], *, num_own: int, train: bool
    ) -> HandHeadOutput:
        """`num_own` leading tokens are hand points; the rest only inform them."""
        width = tokens.shape[-1]
        block = (self.num_heads, self.width_mlp, self.dropout, self.dtype)
        vote = Mlp(width, NUM_VOTED_JOINTS * 4, dtype=self.dtype, name="vote")
        rotation = Mlp(
            width, 6, bias_init=identity_bias, dtype=self.dtype, name="rotation"
        )
        shape = Mlp(width, 10, dtype=self.dtype, name="shape")
        votes, rot6d, betas = [], [], []
        x = tokens
        for layer in range(self.encoder_layers):
            x = TransformerLayer(*block, name=f"encoder_{layer}")(x, train=train)
            votes.append(vote(x[:, :num_own]))
        init = nn.initializers.normal(1.0)
        position = self.param("queries", init, (1, NUM_ROTATIONS + 1, width))
        y = jnp.zeros((x.shape[0], NUM_ROTATIONS + 1, width), x.dtype)
        for layer in range(self.decoder_layers):
            y = TransformerLayer(*block, name=f"decoder_{layer}")(
                y,
                memory=x[:, :num_own],
                self_mask=query_mask(),
                position=position.astype(x.dtype),
                train=train,
            )
            rot6d.append(rotation(y[:, :NUM_ROTATIONS]))
            betas.append(shape(y[:, NUM_ROTATIONS]))
        votes = jnp.stack(votes)
        votes = votes.reshape(*votes.shape[:-1], NUM_VOTED_JOINTS, 4)
        return HandHeadOutput(
            jnp.stack(rot6d), jnp.stack(betas), 0.1 * votes[..., :3], votes[..., 3]
        )


class ObjectHeadOutput(NamedTuple):
    rotation: Float[Array, "l b p r"]
    trans_root: Float[Array, "l b p 3"]  # metres


class ObjectHead(nn.Module):
    """Point tokens -> a rotation and a translation from every point."""

    num_heads: int
    width_mlp: int
    dropout: float
    encoder_layers: int
    rotation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], *, num_own: int, train: bool
    ) -> ObjectHeadOutput:
        """`num_own` leading tokens are object points; the rest only inform them."""
        width = tokens.shape[-1]
        block = (self.num_heads, self.width_mlp, self.dropout, self.dtype)
        is_rot6d = self.rotation == "rot6d"
        rotation_head = Mlp(
            width,
            6 if is_rot6d else 3,
            bias_init=identity_bias if is_rot6d else nn.initializers.zeros,
            dtype=self.dtype,
            name="rotation",
        )
        trans_head = Mlp(width, 3, dtype=self.dtype, name="translation")
        rotation, trans = [], []
        x = tokens
        for layer in range(self.encoder_layers):
            x = TransformerLayer(*block, name=f"encoder_{layer}")(x, train=train)
            rotation.append(rotation_head(x[:, :num_own]))
            trans.append(0.1 * trans_head(x[:, :num_own]))
        return ObjectHeadOutput(jnp.stack(rotation), jnp.stack(trans))
