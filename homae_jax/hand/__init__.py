"""The MANO hand: file formats and the pure-JAX layer."""
