"""Scores an HO-3D submission against the published truth, as the organisers do.

Example:

  python -m homae_jax.score_ho3d --pred=pred.zip --gt=/data/HO3D_v2

--gt holds evaluation_xyz.json and evaluation_verts.json. --out=scores.json keeps the
numbers; a file that is there is kept unless --overwrite is given. Nothing of an archive
is unpacked to disk; no GPU is needed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from homae_jax import command_line, config_flags
from homae_jax.errors import UserError

FLAGS = flags.FlagValues()
_PRED = flags.DEFINE_string(
    "pred", None, "pred.zip, or the pred.json in it.", flag_values=FLAGS
)
_GT = flags.DEFINE_string(
    "gt", None, "Folder of the two truth files.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string(
    "out", None, "JSON file for the scores; default: none.", flag_values=FLAGS
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace the file of --out.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    if not _PRED.value or not _GT.value:
        raise UserError("give both: --pred=pred.zip --gt=/data/HO3D_v2")
    if _OUT.value:
        command_line.check_output("--out", _OUT.value, overwrite=_OVERWRITE.value)
    from homae_jax.evaluation import rendering, tables
    from homae_jax.evaluation.ho3d_submission import score_submission

    scores = score_submission(_PRED.value, _GT.value)
    print(rendering.render(tables.submission_table(scores), "console"))
    if _OUT.value:
        Path(_OUT.value).write_text(json.dumps(scores, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    config_flags.run(main, FLAGS, takes_config=False)
