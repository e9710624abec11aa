"""What a made world says of itself: synthetic.json, its settings and its licence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import homae_jax
from homae_jax.errors import UserError
from homae_jax.synthetic import writers

FILE = "synthetic.json"
WORK = ".world"  # the folder of what is not finished
LICENCE = (
    "Made by homae_jax (Apache-2.0) from procedural hands, objects and textures. "
    "No MANO, HO-3D or YCB data inside, unless settings.models names a folder: then "
    "the pictures show those models and their licence (YCB: CC BY 4.0) applies."
)


class Record(NamedTuple):
    """A world that is there."""

    settings: Mapping[str, Any]
    is_complete: bool
    is_begun: bool  # something of it was drawn, or planned to the end

    def clash(self, settings: Mapping[str, Any]) -> tuple[str, Any] | None:
        """The first of the settings that this world was not made with, and with what.

        None where nothing was begun: such a folder is free.
        """
        if not self.is_begun:
            return None
        differing = (k for k, v in settings.items() if self.settings.get(k) != v)
        key = next(differing, None)
        return None if key is None else (key, self.settings.get(key))


def is_planned(root: Path) -> bool:
    """Whether all that comes before drawing is there."""
    return (root / WORK / "world.json").is_file()


def read_record(root: Path) -> Record | None:
    """The world's record; None where there is none.

    Raises:
      UserError: it cannot be read.
    """
    path = root / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        settings, is_complete = found["settings"], found["is_complete"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged; remove the folder or choose another"
        ) from error
    if not isinstance(settings, dict) or not isinstance(is_complete, bool):
        raise UserError(f"{path}: no record of a world; choose another folder")
    settings = {"grips": "any"} | settings  # worlds from before there was a choice
    return Record(settings, is_complete, is_complete or is_planned(root))


def write_record(root: Path, settings: Mapping[str, Any], **facts: Any) -> None:
    """Writes synthetic.json, whole or not at all."""
    record = {
        "version": homae_jax.__version__,
        "settings": settings,
        **facts,
        "licence": LICENCE,
    }
    writers.write_text(root / FILE, json.dumps(record, indent=2) + "\n")
