"""Looks at the machine and the files a run needs; each line is ok or says what to do.

Examples:

  # versions, devices, memory, caches
  python -m homae_jax.doctor

  # the same, and the hand model, the encoder's weights and the data of a configuration
  python -m homae_jax.doctor --config=configs/ho3d.py --config.data.root=/data/HO3D_v2

Exits with 1 where there is an error, such as a GPU that JAX does not use.
"""

import os
import sys
from collections.abc import Sequence

from homae_jax import config_flags, runtime

EXIT_ERRORS = 1

_CONFIG = config_flags.define_config()


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


if __name__ == "__main__":
    config_flags.run(main)
