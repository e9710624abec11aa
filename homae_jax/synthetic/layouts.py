"""The layouts that a world can be written in, by the name that `--layout` takes."""

from homae_jax.synthetic.dexycb_layout import DexYcbWriter, plan_dexycb
from homae_jax.synthetic.rig import RigWorld
from homae_jax.synthetic.scenes import World
from homae_jax.synthetic.writers import Ho3dWriter, Writer, plan_ho3d

WRITERS: dict[str, type[Writer]] = {"ho3d": Ho3dWriter, "dexycb": DexYcbWriter}
PLANS = {"ho3d": plan_ho3d, "dexycb": plan_dexycb}
WORLDS = {"ho3d": World, "dexycb": RigWorld}
