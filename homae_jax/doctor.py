"""Looks at the machine and the files a run needs; each line is ok or says what to do.

Examples:

  # versions, devices, memory, caches
  python -m homae_jax.doctor

  # the same, and the hand model, the encoder's weights and the data of a configuration
  python -m homae_jax.doctor --config=configs/ho3d.py --config.data.root=/data/HO3D_v2

  # a data set's folder: counts beside the published ones, every missing file, pictures
  # of random frames with their labels (python -m homae_jax.doctor data --help)
  python -m homae_jax.doctor data --root=/data/DexYCB --out=report

Exits with 1 where there is an error, such as a GPU that JAX does not use or a file that
is missing.
"""

import os
import sys
from collections.abc import Sequence

from absl import flags

from homae_jax import command_line, config_flags, runtime

EXIT_ERRORS = 1

FLAGS = flags.FlagValues()
_CONFIG = config_flags.define_config(FLAGS)


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    config = _CONFIG.value
    runtime.prepare()
    from homae_jax.diagnosis import system

    findings = system.check_all(config)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(system.format_findings(findings, colour=colour))
    return EXIT_ERRORS if any(f.level == "error" for f in findings) else 0


def check_dataset(arguments: Sequence[str]) -> int:
    """`doctor data`: see diagnosis/dataset.py."""

    def command() -> int:
        from homae_jax.diagnosis import dataset

        return dataset.main(arguments)

    return command_line.guard(command)


if __name__ == "__main__":
    if sys.argv[1:2] == ["data"]:
        runtime.prepare()
        command_line.finish(check_dataset(sys.argv[2:]))
    config_flags.run(main, FLAGS)
