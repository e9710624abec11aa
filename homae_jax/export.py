"""Writes a run's parameters as a folder to hand on.

Examples:

  # the newest checkpoint of a run
  python -m homae_jax.export --workdir=runs/ho3d --out=exports/homae_ho3d

  # another checkpoint, in place of an earlier export
  python -m homae_jax.export --workdir=runs/ho3d --restore_step=50000 \\
      --out=exports/homae_ho3d --overwrite

The folder holds parameters.safetensors, config.json, an orbax checkpoint of the
parameters and manifest.json with the sha256 of every file. evaluate takes it as
--workdir, train as --config.train.init_from; in Python,
homae_jax.weights.load_export(DIR) verifies the hashes and returns nested arrays.
"""

from collections.abc import Sequence

from absl import flags

from homae_jax import config_flags, runtime
from homae_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.")
_OUT = flags.DEFINE_string("out", None, "Folder to write.")
_RESTORE_STEP = flags.DEFINE_integer(
    "restore_step", None, "Checkpoint to export; default: the newest."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an export in --out.")


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    for flag in (_WORKDIR, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name}=DIR is missing")
    runtime.prepare()
    from homae_jax import assembly, weights

    run = assembly.open_run(_WORKDIR.value, _RESTORE_STEP.value)
    folder = weights.write_export(
        _OUT.value,
        assembly.stored_params(run),
        config_json=assembly.config_to_json(run.config),
        step=run.step,
        overwrite=_OVERWRITE.value,
    )
    print(f"step {run.step} of {run.folder} -> {folder}")
    return 0


if __name__ == "__main__":
    config_flags.run(main)
