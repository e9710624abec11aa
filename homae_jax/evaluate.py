"""Scores a trained model on a split, prints the table, draws what it says.

Examples:

  # the evaluation split of the data set it was trained for, newest checkpoint
  python -m homae_jax.evaluate --workdir=runs/ho3d

  # another checkpoint; the data have moved; scores elsewhere
  python -m homae_jax.evaluate --workdir=runs/ho3d --restore_step=50000 \\
      --config.data.root=/data/HO3D_v2 --out=runs/ho3d_50000

  # the file that HO-3D's organisers score; locally: python -m homae_jax.score_ho3d
  python -m homae_jax.evaluate --workdir=runs/ho3d --submission=pred.zip

  # what it costs to predict wrist, boxes and centre: needs auxiliary heads
  python -m homae_jax.evaluate --workdir=runs/mine --config.protocol.root=predicted \\
      --config.protocol.boxes=predicted --config.protocol.object_center=predicted

  # what was exported for others to use
  python -m homae_jax.evaluate --workdir=exports/homae_ho3d

The configuration comes out of the checkpoint; any key of it can be overridden as
above. Written into the workdir: eval/<dataset>_<split>.json (with "_predicted" where
anything was), its tables for papers in eval/tables/, a record of every frame in
eval/<dataset>_<split>_frames.json, and figures/*.png: predictions beside the truth
(HOMAE Fig. 4, 5), reconstructions (Fig. 3), slices of the signed distance, training
curves. Scores that are there already, as after training, and an earlier submission are
kept unless --overwrite is given.
"""

from collections.abc import Sequence

from absl import flags

from homae_jax import command_line, config_flags, runtime
from homae_jax.errors import UserError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of a training run, or an export.",
    flag_values=FLAGS,
)
_SPLIT = flags.DEFINE_string(
    "split", None, "Default: the run's data.eval_split.", flag_values=FLAGS
)
_RESTORE_STEP = flags.DEFINE_integer(
    "restore_step",
    None,
    "Checkpoint to score; default: the newest.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder for eval/ and figures/; default: the workdir.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace the scores of an earlier evaluation in --out, or the submission.",
    flag_values=FLAGS,
)
_SUBMISSION = flags.DEFINE_string(
    "submission",
    None,
    "Only write HO-3D's submission file, such as pred.zip.",
    flag_values=FLAGS,
)

GROUPS = {
    "What to score": ("workdir", "restore_step", "split"),
    "What to write": ("out", "overwrite", "submission"),
}


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir=DIR is missing: a training run, or an export")
    runtime.prepare()
    from homae_jax import assembly, scoring, submission

    run = assembly.open_run(_WORKDIR.value, _RESTORE_STEP.value)
    config_flags.apply_overrides(run.config, config_flags.overrides())
    folder = _OUT.value or run.folder
    split = _SPLIT.value or run.config.data.eval_split
    path = scoring.result_file(run.config, folder, split)
    if _SUBMISSION.value:
        submission.check_submittable(run.config)
        command_line.check_output(
            "--submission",
            _SUBMISSION.value,
            overwrite=_OVERWRITE.value,
            suffixes=(".zip",),
        )
    elif path.exists() and not _OVERWRITE.value:
        raise UserError(
            f"{path}: holds scores already; add --overwrite, or choose another --out"
        )
    runtime.keep_memory()
    print(runtime.check_device("any", allow_cpu=True), flush=True)
    print(f"step {run.step} of {run.folder}", flush=True)
    assembly.prepare_data(run.config, may_make=False)
    for needed in (split, run.config.data.train_split):  # for the trivial predictor
        assembly.check_split(run.config, needed)
    parts = assembly.build_parts(run.config)
    wanted = assembly.param_shapes(run.config, parts)
    params = assembly.load_params(run.folder, wanted, run.step)
    if _SUBMISSION.value:
        written = submission.write_submission(
            run.config, params, parts=parts, path=_SUBMISSION.value
        )
        print(f"wrote {written}")
        return 0
    scorer = scoring.Scorer(run.config, parts, split=split)
    scorer.evaluate(params, workdir=folder, step=run.step)
    return 0


if __name__ == "__main__":
    config_flags.run(main, FLAGS, GROUPS)
