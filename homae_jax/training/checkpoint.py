"""Checkpoints by orbax, with hashes: complete and unchanged, or an error.

`<workdir>/checkpoints/<step>/` holds the state, the data iterator and the configuration
(orbax), `<workdir>/checkpoints/hashes/<step>.json` the sha256 of each of its files,
written last: a step without it was not finished and does not count. Every load reads
the hashes back, so that a flipped bit is an error, not a number.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from homae_jax.errors import UserError

FORMAT_VERSION = 1
FOLDER, HASHES = "checkpoints", "hashes"
MAX_LISTED = 8  # parameters named in one error


class Restored(NamedTuple):
    """A checkpoint's content."""

    step: int
    state: Any
    data: dict[str, Any]  # state of the data iterator
    config: dict[str, Any]


class Checkpointer:
    """Writes a run's checkpoints, keeping the newest few."""

    def __init__(self, workdir: str | Path, *, keep: int):
        self._root = Path(workdir).absolute() / FOLDER
        (self._root / HASHES).mkdir(parents=True, exist_ok=True)
        self._keep = keep

    def save(
        self, step: int, state: Any, *, data: Mapping[str, Any], config: Mapping
    ) -> None:
        """Saves and waits; the step counts once its hashes are on disk."""
        target = self._root / str(step)
        if step in finished_steps(self._root.parent):
            return
        shutil.rmtree(target, ignore_errors=True)
        meta = {"format_version": FORMAT_VERSION, "config": dict(config)}
        with (
            _quiet_orbax(),
            ocp.Checkpointer(
                ocp.CompositeCheckpointHandler("state", "data", "meta")
            ) as writer,
        ):
            writer.save(
                target,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()),
                    data=ocp.args.JsonSave(dict(data)),
                    meta=ocp.args.JsonSave(meta),
                ),
            )
        _write_json(self._hash_file(step), _hashes(target))
        self._drop_old()

    def _hash_file(self, step: int) -> Path:
        return self._root / HASHES / f"{step}.json"

    def _drop_old(self) -> None:
        """Removes surplus steps, the record first; and steps never finished."""
        kept = finished_steps(self._root.parent)[-self._keep :]
        for record in (self._root / HASHES).glob("*.json"):
            if int(record.stem) not in kept:
                record.unlink()
        for folder in self._root.iterdir():
            if folder.name != HASHES and folder.name not in map(str, kept):
                shutil.rmtree(folder, ignore_errors=True)


def finished_steps(workdir: str | Path) -> list[int]:
    """Steps that can be restored, oldest first."""
    root = Path(workdir) / FOLDER
    records = (root / HASHES).glob("*.json") if root.is_dir() else ()
    return sorted(int(r.stem) for r in records if (root / r.stem).is_dir())


def choose_step(
    workdir: str | Path, *, step: int | None = None, latest_valid: bool = False
) -> int:
    """The step to restore: the one asked for, or the newest.

    Args:
      latest_valid: pass over damaged steps, saying so.

    Raises:
      UserError: there is no such step, or it is damaged.
    """
    steps = finished_steps(workdir)
    if not steps:
        raise UserError(f"{workdir}: no finished checkpoint in {FOLDER}/")
    if step is not None:
        if step not in steps:
            raise UserError(
                f"{workdir}: no checkpoint of step {step}; there are {steps}"
            )
        verify(workdir, step)
        return step
    for candidate in reversed(steps):
        try:
            verify(workdir, candidate)
        except UserError as error:
            if not latest_valid:
                raise
            print(f"warning: {error}", flush=True)
        else:
            return candidate
    raise UserError(f"{workdir}: every checkpoint is damaged ({steps})")


def verify(workdir: str | Path, step: int) -> None:
    """Raises UserError naming the first file that is missing or changed."""
    root = Path(workdir) / FOLDER
    remedy = "choose another with --restore_step, or --restore=latest_valid"
    where = f"checkpoint of step {step} is damaged"
    try:
        recorded = json.loads((root / HASHES / f"{step}.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {HASHES}/{step}.json; {remedy}") from error
    found = _hashes(root / str(step))
    for name in sorted({*recorded, *found}):
        if recorded.get(name) != found.get(name):
            raise UserError(f"{where}: {root / str(step) / name}; {remedy}")


def read_config(workdir: str | Path, step: int) -> dict[str, Any]:
    """The configuration stored with a checkpoint (JSON, never code)."""
    meta = _read_json(Path(workdir) / FOLDER / str(step) / "meta" / "metadata")
    version = meta.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{workdir}: checkpoint format {version}, this program reads "
            f"{FORMAT_VERSION}"
        )
    return meta["config"]


def restore(workdir: str | Path, step: int, template: Any) -> Restored:
    """Reads a verified step into the shapes, types and devices of `template`.

    Raises:
      UserError: the model differs; every differing parameter is named.
    """
    folder = Path(workdir).absolute() / FOLDER / str(step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template._asdict())
    _check_same_tree(folder, abstract)
    with (
        _quiet_orbax(),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler("state")) as reader,
    ):
        found = reader.restore(
            folder, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
    return Restored(
        step=step,
        state=type(template)(**found.state),
        data=_read_json(folder / "data" / "metadata"),
        config=read_config(workdir, step),
    )


def restore_params(workdir: str | Path, step: int, template: Any) -> Any:
    """Only the parameters of a verified step; `template` is their tree."""
    folder = Path(workdir).absolute() / FOLDER / str(step)
    abstract = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, template)}
    _check_same_tree(folder, abstract)
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    with _quiet_orbax(), ocp.PyTreeCheckpointer() as reader:
        found = reader.restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(
                item=abstract, restore_args=restore_args, partial_restore=True
            ),
        )
    return found["params"]


def _check_same_tree(folder: Path, wanted: Any) -> None:
    with _quiet_orbax(), ocp.PyTreeCheckpointer() as reader:
        stored = reader.metadata(folder / "state").item_metadata.tree
    want = _shapes({k: wanted[k] for k in ("params",) if k in wanted})
    have = _shapes({"params": stored["params"]})
    lines = [
        f"{name} (wanted {want.get(name, 'none')}, found {have.get(name, 'none')})"
        for name in sorted({*want, *have})
        if want.get(name) != have.get(name)
    ]
    if lines:
        more = f" and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
        raise UserError(
            f"{folder}: the checkpoint is of another model: "
            f"{'; '.join(lines[:MAX_LISTED])}{more}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = (jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in flat)
    return {n: tuple(x.shape) for n, (_, x) in zip(names, flat, strict=True)}


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder, by relative name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged checkpoint ({error})") from error


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".part")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax logs dozens of lines per save; only its errors are of interest."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def to_host(state: Any) -> Any:
    """Numpy copies of a state's arrays."""
    return jax.tree.map(np.asarray, state)
