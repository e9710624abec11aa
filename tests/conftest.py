"""Shapes and types are checked at run time in tests, and only there."""

import gc
import os

gc.set_threshold(100_000)  # traces stay; see runtime.prepare
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(os.path.expanduser("~"), ".cache", "homae_jax", "test-compile"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from jaxtyping import install_import_hook

install_import_hook("homae_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
