"""One page about a training run, or several side by side: report.html and report.md.

Examples:

  # what is in a run's folder: settings, curves, tables, best and worst frames
  python -m homae_jax.report --workdir=runs/ho3d

  # two runs compared: what was set otherwise, what came out, curves over each other
  python -m homae_jax.report --workdir=runs/ho3d --workdir=runs/ho3d_nomask --out=page

Reads metrics.jsonl, eval/*.json, figures/*.png and the configuration inside the
newest checkpoint, and computes nothing: run homae_jax.evaluate first. The HTML file
holds everything and opens anywhere; a page that is there is made anew.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from homae_jax import config_flags, run_report, runtime
from homae_jax.errors import UserError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Folder of a training run; give it again to compare.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder to write; default: the first workdir.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir=DIR is missing: a training run")
    runtime.prepare()
    from homae_jax.viz import run_page

    folders = [Path(folder).expanduser() for folder in _WORKDIR.value]
    runs = run_report.named([run_report.read_run(folder) for folder in folders])
    sections = [*run_report.comparison(runs), *map(run_report.run_section, runs)]
    title = "Report: " + " and ".join(run.name for run in runs)
    page = run_page.write_page(_OUT.value or folders[0], sections, title=title)
    print(f"-> {page}")
    return 0


if __name__ == "__main__":
    config_flags.run(main, FLAGS, takes_config=False)
