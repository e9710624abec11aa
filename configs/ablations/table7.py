"""HOMAE Table VII: what fills the masked patches, on HO-3D v2.

    python -m homae_jax.train --config=configs/ablations/table7.py:gaussian ...

mm         MJE  STMJE  PAMJE   OME  ADD-S
zero      22.5   21.6   10.2  42.1   16.3
mean      22.3   21.3   10.1  42.4   15.8
gaussian  21.8   20.5    9.8  39.3   14.2
"""

from configs.ablations import study


def sweep() -> dict[str, dict[str, object]]:
    """Flat overrides by the name of the setting, in the table's order."""
    return {fill: {"model.mask.fill": fill} for fill in ("zero", "mean", "gaussian")}


get_config = study.config_of(sweep)
