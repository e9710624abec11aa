"""HOMAE Table VI: the number of masked patches, on HO-3D v2.

    python -m homae_jax.train --config=configs/ablations/table6.py:patches_12 ...

mm           MJE  STMJE  PAMJE   OME  ADD-S
patches_4   22.6   21.9   10.3  42.0   16.2
patches_8   22.3   21.6   10.1  40.8   15.7
patches_12  21.8   20.5    9.8  39.3   14.2
patches_16  22.4   20.9   10.2  41.1   14.9
"""

from configs.ablations import study


def sweep() -> dict[str, dict[str, object]]:
    """Flat overrides by the name of the setting, in the table's order."""
    return {f"patches_{n}": {"model.mask.num_patches": n} for n in (4, 8, 12, 16)}


get_config = study.config_of(sweep)
