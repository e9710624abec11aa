"""Implicit and explicit geometry joined (HOMAE eq. 14)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from homae_jax.models.products import between, dense


class Fusion(nn.Module):
    """F_agg = Dense(F_img + F_3D concatenated) x sigmoid(s SDF / beta) / beta.

    beta is learnt and floored; the SDF takes no gradient here (HOISDF). With
    `explicit` off, F_agg is the weighted F_img alone (Table V, row 3).
    """

    explicit: bool
    sdf_sign: int
    beta_init: float
    beta_floor: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        f_img: Float[Array, "*b p c"],
        f_3d: Float[Array, "*b p c"] | None,
        sdf_norm: Float[Array, "*b p"],
    ) -> Float[Array, "*b p c"]:
        beta = self.param("beta", nn.initializers.constant(self.beta_init), ())
        # The floor's gradient is beta's: at the floor it could never rise again.
        raised = jax.lax.stop_gradient(jnp.maximum(beta, self.beta_floor))
        beta = raised + (beta - jax.lax.stop_gradient(beta))
        sdf = self.sdf_sign * jax.lax.stop_gradient(sdf_norm)
        weight = (jax.nn.sigmoid(sdf / beta) / beta).astype(between(self.dtype))
        if self.explicit:
            joined = jnp.concatenate([f_img, f_3d], axis=-1)
            f_img = dense(f_img.shape[-1], self.dtype, name="join")(joined)
        return f_img * weight[..., None]
