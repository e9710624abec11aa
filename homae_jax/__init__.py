"""HOMAE in JAX/Flax: hand and object pose from one RGB image."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homae_jax.predictor import ObjectShape, Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["ObjectShape", "Prediction", "Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads the predictor when it is asked for: importing homae_jax starts no JAX."""
    if name in __all__:
        from homae_jax import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'homae_jax' has no attribute {name!r}")
