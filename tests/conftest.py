"""Shapes and types are checked at run time in tests, and only there."""

import gc
import os
import resource

gc.set_threshold(100_000)  # traces stay; see runtime.prepare
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(os.path.expanduser("~"), ".cache", "homae_jax", "test-compile"),
)
# Of programs that tests start; some are killed, and a cache file may be half-written.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from jaxtyping import install_import_hook

install_import_hook("homae_jax", "beartype.beartype")

import jax
import pytest

from tests.hand import built_hand

jax.config.update("jax_numpy_rank_promotion", "raise")
# The processes of the suite share every program: thousands are single operations, and
# each takes as long to compile as ten of them to load.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

MANY_KB = 3_000_000  # ever held by a test process; from then on it forgets programs


@pytest.fixture(autouse=True, scope="session")
def _one_hand(tmp_path_factory):
    """The suite's processes build the hand once: it takes ten seconds."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        built_hand.shared = tmp_path_factory.getbasetemp().parent


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Programs of a module are seldom another's, and a suite of them fills memory."""
    yield
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MANY_KB:
        jax.clear_caches()
        gc.collect()
