"""A small linen network, its loss and batches, for tests of the training step."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

NUM_FEATURES = 6


class ToyBatch(NamedTuple):
    features: jax.Array  # b d
    labels: jax.Array  # b


class ToyNet(nn.Module):
    """An encoder ("vit") and a head, so that rates by part can be told apart."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(8, name="vit")(x))
        return nn.Dense(1, name="head")(x)[..., 0]


def toy_batch(num: int, seed: int = 0) -> ToyBatch:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, NUM_FEATURES)).astype(np.float32)
    return ToyBatch(features, np.sin(features.sum(axis=1)).astype(np.float32))


def toy_params(seed: int = 0) -> dict:
    return ToyNet().init(jax.random.key(seed), jnp.zeros((1, NUM_FEATURES)))["params"]


def toy_loss(params, batch, key, step):
    """Mean squared error; without randomness, so that engines can be compared."""
    del key, step
    error = ToyNet().apply({"params": params}, batch.features) - batch.labels
    return jnp.mean(error**2), {"mse": jnp.mean(error**2)}


def masked_loss(params, batch, key, step, mean_rows=None):
    """The same over the rows whose label is above zero."""
    del key, step
    error = ToyNet().apply({"params": params}, batch.features) - batch.labels
    counts = count_rows(batch)
    mean = jnp.sum(error**2 * (batch.labels > 0)) / jnp.maximum(counts["labelled"], 1)
    if mean_rows is not None:
        mean *= counts["labelled"] / mean_rows["labelled"]
    return mean, {"mse": mean}


def count_rows(batch):
    return {"labelled": jnp.sum(batch.labels > 0, dtype=jnp.float32)}


def noisy_loss(params, batch, key, step):
    """Draws noise for each row, as dropout does."""
    noise = 0.1 * jax.random.normal(key, batch.features.shape)
    moved = batch._replace(features=batch.features + noise)
    return toy_loss(params, moved, key, step)
