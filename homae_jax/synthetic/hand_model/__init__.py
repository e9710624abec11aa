"""A procedural, licence-free hand in MANO's parameterisation.

skeleton -> implicit surface -> surface nets -> decimation to MANO's counts ->
skinning, shape, pose and regression bases. Axes are MANO's: fingers along -x, back of
the hand +y, thumb +z; metres. numpy and scipy only; the same arrays on every run.
"""

from homae_jax.synthetic.hand_model.build import build_hand, mirror_hand

__all__ = ["build_hand", "mirror_hand"]
