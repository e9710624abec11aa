"""HOMAE on HO-3D v2: the paper's setting on one GPU of 24 GB (HOMAE sec. IV-B).

    python -m homae_jax.train --config=configs/ho3d.py \\
        --config.data.root=/data/HO3D_v2 \\
        --config.data.models=/data/YCB_Video_Models/models \\
        --config.data.mano=/data/mano/MANO_RIGHT.pkl \\
        --config.model.encoder.weights=/data/dinov2_vitb14.safetensors

The paper's Table III: MJE 21.8, STMJE 20.5, PAMJE 9.8, OME 39.3, ADD-S 14.2 mm.
No run of this configuration on the real data has been made yet.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    c = common.get_config()
    c.name = "ho3d"
    c.data.dataset = "ho3d"
    return c
