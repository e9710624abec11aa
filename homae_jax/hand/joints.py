"""Joint orders of the hand (facts of MANO, HO-3D and DexYCB).

MANO order: 16 kinematic joints (wrist; index, middle, little, ring, thumb, proximal to
distal), then the tips thumb, index, middle, ring, little. Simple order: wrist, then
each finger from its root to its tip: thumb, index, middle, ring, little. MANO lists the
little finger before the ring finger, the simple order after it.
"""

import numpy as np

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

# simple[k] = mano[MANO_TO_SIMPLE[k]] and mano[k] = simple[SIMPLE_TO_MANO[k]].
MANO_TO_SIMPLE = np.array(
    [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
)
SIMPLE_TO_MANO = np.argsort(MANO_TO_SIMPLE)

JOINT_NAMES = (
    "wrist",
    *(f"{finger}_{part}" for finger in ("index", "middle", "little", "ring", "thumb")
      for part in ("mcp", "pip", "dip")),
    *(f"{finger}_tip" for finger in ("thumb", "index", "middle", "ring", "little")),
)  # fmt: skip

# Pairs of joints (MANO order, tips included) to draw as bones.
BONES = (
    *((parent, joint) for joint, parent in enumerate(PARENTS) if parent >= 0),
    (15, 16),
    (3, 17),
    (6, 18),
    (12, 19),
    (9, 20),
)
