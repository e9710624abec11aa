"""Turns public weights and models into this project's own files.

Examples:

  python -m homae_jax.convert dinov2 --src=model.safetensors --out=vitb14.safetensors
  python -m homae_jax.convert mano --src=MANO_RIGHT.pkl --out=mano_right.npz

`dinov2` reads the Hub's model.safetensors, the official .pth (needs PyTorch) or timm's
file and writes .npz or .safetensors, with the position embedding at the file's own
size; `model.encoder.weights` accepts the source and the result alike. `mano` reads
MANO's official pickle without executing anything in it and writes .npz.

The output appears whole or not at all; an existing file needs --overwrite.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors

from homae_jax import command_line
from homae_jax.errors import UserError
from homae_jax.whole_file import replacing

# The readers need JAX: they are imported where they are used, so that --help and
# mistakes answer at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one conversion; returns the exit status."""
    return command_line.guard(lambda: _convert(arguments))


def convert_dinov2(
    source: str | Path, out: str | Path, *, variant: str = "", overwrite: bool = False
) -> str:
    """Converts DINOv2 weights; returns the variant found.

    Args:
      variant: if given, the one that the file must hold.

    Raises:
      UserError: an unreadable or unfit source, or an output that may not be written.
      OSError: the output cannot be written.
    """
    from homae_jax.models import dinov2

    suffixes = (".npz", ".safetensors")
    command_line.check_output("--out", out, overwrite=overwrite, suffixes=suffixes)
    if variant:
        dinov2.find_variant(variant)
    state, metadata = dinov2.read_weights(source)
    found = dinov2.detect_variant(state, source)
    if variant and found != variant:
        raise UserError(f"{source} holds {found}, not {variant}")
    dinov2.check_image_statistics(source, metadata)
    sizes = dinov2.VARIANTS[found]
    flat = dinov2.convert_state(state, sizes, name=str(source))
    about = {
        "format": "homae_jax dinov2",
        "variant": found,
        "image_mean": dinov2.IMAGE_MEAN,
        "image_std": dinov2.IMAGE_STD,
    }
    described = {dinov2.METADATA_KEY: json.dumps(about)}
    with replacing(out) as part:
        if Path(out).suffix == ".npz":
            _write_npz(part, flat, described)
        else:
            # save_file would let nobody but its owner read it.
            part.write_bytes(safetensors.save(flat, metadata=described))
    return found


def convert_mano(
    source: str | Path, out: str | Path, *, side: str = "right", overwrite: bool = False
) -> None:
    """Converts a MANO model.

    Args:
      side: "right" or "left"; the file must hold that hand.

    Raises:
      UserError: an unreadable or unfit source, or an output that may not be written.
      OSError: the output cannot be written.
    """
    from homae_jax.hand import mano_files

    command_line.check_output("--out", out, overwrite=overwrite, suffixes=(".npz",))
    model = mano_files.load_mano(source, side=side)
    mano_files.save_mano_npz(model, out, overwrite=overwrite)


def _convert(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.kind:
        parser.error("what to convert is missing: dinov2 or mano")
    parser.require(options, "src", "out")
    print(options.convert(options))


def _parser() -> command_line.Parser:
    parser = command_line.Parser(
        prog="python -m homae_jax.convert", description=__doc__
    )
    kinds = parser.add_subparsers(dest="kind", metavar="dinov2|mano")
    encoder = kinds.add_parser("dinov2", help="DINOv2 weights -> .npz or .safetensors")
    encoder.add_argument("--variant", default="", help="refuse any other variant")
    encoder.set_defaults(convert=_run_dinov2)
    hand = kinds.add_parser("mano", help="official MANO pickle -> .npz")
    hand.add_argument(
        "--side", choices=("right", "left"), default="right", help="the hand in it"
    )
    hand.set_defaults(convert=_run_mano)
    for kind in (encoder, hand):
        kind.add_argument("--src", help="file to read; must be given")
        kind.add_argument("--out", help="file to write; must be given")
        kind.add_argument("--overwrite", action="store_true", help="replace the file")
    return parser


def _run_dinov2(options: argparse.Namespace) -> str:
    found = convert_dinov2(
        options.src, options.out, variant=options.variant, overwrite=options.overwrite
    )
    return f"{options.out}: DINOv2 {found} (model.encoder.variant={found})"


def _run_mano(options: argparse.Namespace) -> str:
    convert_mano(
        options.src, options.out, side=options.side, overwrite=options.overwrite
    )
    return f"{options.out}: MANO {options.side} hand"


def _write_npz(
    path: Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> None:
    with path.open("wb") as file:  # a name would get the ending .npz
        np.savez(file, **arrays, **{key: np.array(text) for key, text in texts.items()})


if __name__ == "__main__":
    command_line.finish(main())
