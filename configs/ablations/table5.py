"""HOMAE Table V: what each component is worth, on HO-3D v2.

    python -m homae_jax.train --config=configs/ablations/table5.py:no_masking ...

mm                                        MJE  STMJE  PAMJE   OME  ADD-S
no_masking      (w/o target-focused...)  23.2   22.6   10.5  43.8   15.9
no_multiscale   (w/o multi-scale...)     22.4   21.5   10.1  41.2   14.9
only_implicit   (w/o explicit...)        22.1   21.3   10.3  41.6   15.4
full                                     21.8   20.5    9.8  39.3   14.2
"""

from configs.ablations import study


def sweep() -> dict[str, dict[str, object]]:
    """Flat overrides by the name of the setting, in the table's order."""
    return {
        "no_masking": {"model.mask.enabled": False},
        "no_multiscale": {"model.decoder.multiscale": False},
        "only_implicit": {"model.fusion.explicit": False},
        "full": {},
    }


get_config = study.config_of(sweep)
