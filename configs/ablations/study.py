"""From a table's `sweep()` to the configuration of one of its settings."""

from collections.abc import Callable

import ml_collections

from configs import ho3d
from homae_jax.errors import UserError

Sweep = dict[str, dict[str, object]]


def config_of(sweep: Callable[[], Sweep]) -> Callable[..., ml_collections.ConfigDict]:
    """`get_config(setting)` of a table; the last setting is the paper's own."""

    def get_config(setting: str = "") -> ml_collections.ConfigDict:
        settings = sweep()
        setting = setting or list(settings)[-1]
        if setting not in settings:
            known = ", ".join(settings)
            raise UserError(f'no setting "{setting}": use one of {known}')
        c = ho3d.get_config()
        c.name = f"ho3d_{setting}"
        c.sweep = setting
        c.update_from_flattened_dict(settings[setting])
        return c

    return get_config
