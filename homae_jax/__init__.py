"""HOMAE in JAX/Flax: hand and object pose from one RGB image."""

__version__ = "0.1.0"
