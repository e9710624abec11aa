"""Writes a run's parameters as a folder to hand on.

Examples:

  # the newest checkpoint of a run
  python -m homae_jax.export --workdir=runs/ho3d --out=exports/homae_ho3d

  # another checkpoint, in place of an earlier export
  python -m homae_jax.export --workdir=runs/ho3d --restore_step=50000 \\
      --out=exports/homae_ho3d --overwrite

The folder holds parameters.safetensors, config.json, an orbax checkpoint of the
parameters, a model card and manifest.json with the sha256 of every file; where the
run's data are at hand also objects.npz (the known objects), hand.npz (only the
synthetic world's own: MANO may not be handed on) and program.bin: the network as
StableHLO for cpu and cuda with any batch size. evaluate takes the folder as --workdir,
train as --config.train.init_from, predict as --checkpoint; in Python,
homae_jax.Predictor(DIR), or homae_jax.exported.ExportedModel(DIR), which needs none of
the other code.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from homae_jax import config_flags, runtime
from homae_jax.errors import UserError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a training run.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", flag_values=FLAGS)
_RESTORE_STEP = flags.DEFINE_integer(
    "restore_step",
    None,
    "Checkpoint to export; default: the newest.",
    flag_values=FLAGS,
)
_PROGRAM = flags.DEFINE_bool(
    "program",
    True,
    "Also programs that run without this project's code.",
    flag_values=FLAGS,
)
_ORBAX = flags.DEFINE_bool(
    "orbax",
    True,
    "The parameters for orbax too, beside safetensors; twice the size.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace an export in --out.", flag_values=FLAGS
)

GROUPS = {
    "What to export": ("workdir", "restore_step"),
    "What to write": ("out", "overwrite", "program", "orbax"),
}


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    for flag in (_WORKDIR, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name}=DIR is missing")
    runtime.prepare()
    from homae_jax import assembly, weights

    run = assembly.open_run(_WORKDIR.value, _RESTORE_STEP.value)
    config_flags.apply_overrides(run.config, config_flags.overrides())
    params = assembly.stored_params(run)
    folder = weights.write_export(
        _OUT.value,
        params,
        extras=_extras(run, params),
        config_json=assembly.config_to_json(run.config),
        step=run.step,
        with_orbax=_ORBAX.value,
        overwrite=_OVERWRITE.value,
    )
    print(f"step {run.step} of {run.folder} -> {folder}")
    return 0


def _extras(run: Any, params: Any) -> dict[str, bytes]:
    """The files beside the parameters; what cannot be made is named and left out."""
    import jax

    from homae_jax import assembly, bundle, model_card, program, weights

    assembly.build_model(run.config)  # a mistake in a key is no missing part
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    card = model_card.model_card(
        run.config, step=run.step, num_parameters=count, folder=run.folder
    )
    files = {"README.md": card.encode()}
    try:
        parts = assembly.build_parts(run.config)
    except UserError as error:
        print(f"left out objects and programs: {error}")
        return files
    weights.check_shapes(run.folder, params, assembly.param_shapes(run.config, parts))
    assembly.check_objects(run.config, parts.object_names, run.object_names)
    files[bundle.OBJECTS] = bundle.pack_objects(parts.templates, parts.object_names)
    data = run.config.data
    if bundle.may_hand_on(data.dataset, data.mano):
        files[bundle.HAND] = bundle.pack_hand(parts.mano)
    if not _PROGRAM.value:
        return files
    try:
        return files | program.build_programs(run.config, params, parts.mano)
    except UserError as error:
        print(f"left out the programs: {error}")
        return files


if __name__ == "__main__":
    config_flags.run(main, FLAGS, GROUPS)
