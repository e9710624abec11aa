"""Parameters as files to hand on: safetensors, the configuration, orbax, hashes.

An export is a folder:

* ``parameters.safetensors``: every parameter, named by its path
  ("vit/position_embedding");
* ``config.json``: the whole configuration the parameters were trained with;
* ``checkpoint/``: the same parameters for orbax's StandardCheckpointer, if asked for;
* what else the caller hands over (``extras``);
* ``manifest.json``: sha256 and size of each file above, the step, the version.

Array files carry no checksum of their own, so a flipped bit would load in silence:
`load_export` compares every hash first.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from safetensors import numpy as safetensors

from homae_jax.errors import UserError

FORMAT = "homae_jax export"
VERSION = 1
PARAMETERS = "parameters.safetensors"
CONFIG = "config.json"
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint"
MAX_LISTED, MAX_MESSAGE = 8, 200  # parameters, and letters of a reason, in one error
MAX_MANIFEST_BYTES, MAX_NAME = 16 * 2**20, 200


class Export(NamedTuple):
    """What an export holds."""

    params: dict[str, Any]  # nested, numpy arrays
    config_json: str
    step: int


def is_export(directory: str | Path) -> bool:
    """Whether a folder looks like one of ours."""
    return (Path(directory) / MANIFEST).is_file()


def write_export(
    directory: str | Path,
    params: Mapping[str, Any],
    *,
    config_json: str,
    step: int,
    extras: Mapping[str, bytes] | None = None,
    with_orbax: bool = True,
    overwrite: bool = False,
) -> Path:
    """Writes an export; a reader never sees half of one.

    Args:
      with_orbax: write the parameters a second time, for orbax.
      extras: further files by name, hashed like the rest.

    Raises:
      UserError: the folder exists (without `overwrite`), or holds something else.
    """
    target = Path(directory).absolute()
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; choose another --out")
    if target.exists() and any(target.iterdir()):
        if not is_export(target):
            raise UserError(f"{target}: exists and is no export; choose another --out")
        if not overwrite:
            raise UserError(f"{target}: holds an export; add --overwrite to replace it")
    part, old = (
        target.with_name(f".{target.name}.{os.getpid()}.{end}")
        for end in ("part", "old")
    )
    try:
        part.mkdir(parents=True)
        for name, content in (extras or {}).items():
            (part / name).write_bytes(content)
        _write_files(
            part, params, config_json=config_json, step=step, with_orbax=with_orbax
        )
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write_files(
    folder: Path,
    params: Mapping[str, Any],
    *,
    config_json: str,
    step: int,
    with_orbax: bool,
) -> None:
    host = jax.tree.map(np.asarray, dict(params))
    flat = traverse_util.flatten_dict(host, sep="/")
    contiguous = {name: np.array(value, order="C") for name, value in flat.items()}
    # save_file would let nobody but its owner read what is to be handed on.
    content = safetensors.save(contiguous, metadata={"format": "np"})
    (folder / PARAMETERS).write_bytes(content)
    (folder / CONFIG).write_text(config_json)
    if with_orbax:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / CHECKPOINT, host)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": int(step),
        "num_parameters": int(sum(value.size for value in flat.values())),
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": _sha256(path),
                "bytes": path.stat().st_size,
            }
            for path in files
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def load_export(directory: str | Path, wanted: Any | None = None) -> Export:
    """Reads an export after comparing every hash.

    Args:
      wanted: a tree with the shapes of the model that is to take the parameters.

    Raises:
      UserError: no export, another version, a file missing or altered, or the
        parameters of another model.
    """
    folder = Path(directory)
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder / MANIFEST}: names {name!r:.80}, outside of it")
        if not path.is_file():
            raise UserError(f"{path}: missing from the export; copy it again")
        if _sha256(path) != expected:
            raise UserError(
                f"{path}: differs from its hash in {MANIFEST}; copy or export it again"
            )
    try:
        flat = safetensors.load_file(folder / PARAMETERS)
        nested = traverse_util.unflatten_dict(flat, sep="/")
        config_json = (folder / CONFIG).read_text(encoding="utf-8")
    except Exception as error:  # a strange file may fail anywhere in the reader
        reason = (str(error).splitlines() or [repr(error)])[0][:MAX_MESSAGE]
        raise UserError(f"{folder}: cannot be read ({reason}); export again") from error
    if wanted is not None:
        check_shapes(folder, nested, wanted)
    return Export(
        params=nested,
        config_json=config_json,
        step=manifest["step"],
    )


def check_shapes(folder: Path, found: Any, wanted: Any) -> None:
    """Raises UserError unless the parameters in a folder have the model's shapes."""
    have, want = (
        {k: tuple(v.shape) for k, v in traverse_util.flatten_dict(t, sep="/").items()}
        for t in (found, wanted)
    )
    differing = [k for k in sorted({*have, *want}) if have.get(k) != want.get(k)]
    if differing:
        listed = "; ".join(
            f"{name} (wanted {want.get(name, 'none')}, found {have.get(name, 'none')})"
            for name in differing[:MAX_LISTED]
        )
        raise UserError(
            f"{folder}: is of another model, {len(differing)} parameters differ: "
            f"{listed}"
        )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Step and files, the latter with their hashes alone."""
    if not is_export(folder):
        raise UserError(f"{folder}: no {MANIFEST} here; not a folder made by export")
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
        known = manifest["format"] == FORMAT
        version = manifest["version"]
        files = {name: str(kept["sha256"]) for name, kept in manifest["files"].items()}
        step = int(manifest["step"])
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [repr(error)])[0][:MAX_MESSAGE]
        raise UserError(f"{path}: cannot be read ({reason}); export again") from error
    if not known or not {PARAMETERS, CONFIG} <= set(files):
        raise UserError(f"{path}: not the manifest of an export")
    if version != VERSION:
        raise UserError(
            f"{path}: version {version!r:.40}, this program reads {VERSION}"
        )
    if not all(name.isprintable() and len(name) <= MAX_NAME for name in files):
        raise UserError(f"{path}: names a file that cannot be")
    return {"files": files, "step": step}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
