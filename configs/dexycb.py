"""HOMAE on DexYCB S0: the paper's setting on one GPU of 24 GB (HOMAE sec. IV-B).

    python -m homae_jax.train --config=configs/dexycb.py \\
        --config.data.root=/data/DexYCB --config.data.models=/data/DexYCB/models \\
        --config.data.mano=/data/mano/MANO_RIGHT.pkl \\
        --config.model.encoder.weights=/data/dinov2_vitb14.safetensors

MANO_LEFT.pkl belongs beside MANO_RIGHT.pkl where left hands are read. The paper's
Table I: MJE 10.6, PAMJE 5.08, OCE 17.1, MCE 25.2, ADD-S 11.8 mm; it is compared there
with HOISDF on right hands (`data.filter=hoisdf_small`, the default here, is the nearest
to its list); Table II with both hands (`data.filter=hoisdf_full`). No run of this
configuration on the real data has been made yet.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    c = common.get_config()
    c.name = "dexycb"
    c.data.dataset = "dexycb"
    c.data.train_split = "s0_train"
    c.data.eval_split = "s0_test"
    c.data.filter = "hoisdf_small"
    c.data.hand_box_scale = 1.1  # [H]
    c.data.object_center = "wrist"  # [H]
    a = c.data.augment
    a.rotation_mode = "normal"  # [H: N(0, 1) within +- 2, times 30 degrees]
    a.rotation_deg = 60.0
    a.rotation_probability = 0.6
    c.evaluate.fingertips = "manopth"  # as the labels
    return c
