"""Checkpoints by orbax, with hashes: complete and unchanged, or an error.

`<workdir>/checkpoints/<step>/` holds the state (arrays), the position of the data
iterator, the configuration, the names of the objects trained with, in the order of the
rows that the network knows them by, and `hashes.json`, the sha256 of each file. A step
is written beside its place and moved there when all is on disk, so that one that is
there is complete, whenever the process was killed. Every load reads the hashes back:
arrays carry no checksum of their own, and a flipped bit would be just another number.

Arrays are stored without their devices and come back as numpy: any number of devices
and either engine can go on with them.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from homae_jax.errors import UserError

FORMAT_VERSION = 2  # 1: moments by parameter
FOLDER, ASIDE = "checkpoints", "set_aside"
STATE, META, HASHES = "state", "meta.json", "hashes.json"
PART, OLD = ".part", ".old"  # being written; being removed
CLEARINGS = 20  # attempts, 0.1 s apart; the next start removes what is left then
MAX_LISTED, MAX_MESSAGE = 8, 300  # parameters, and letters, in one error
MAX_JSON_BYTES = 16 * 2**20
REMEDY = "choose another with --restore_step=N or --restore=latest_valid"


class Restored(NamedTuple):
    """A checkpoint's content."""

    step: int
    state: Any  # numpy arrays
    data: dict[str, Any]  # state of the data iterator
    config: dict[str, Any]
    object_names: tuple[str, ...]  # (): not noted


class Checkpointer:
    """Writes a run's checkpoints in the background, keeping the newest few."""

    def __init__(self, workdir: str | Path, *, keep: int):
        self._root = Path(workdir).absolute() / FOLDER
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self._root}: cannot be written ({error.strerror})"
            ) from error
        self._keep = max(keep, 1)
        self._writer: threading.Thread | None = None
        self._failure: UserError | None = None
        for leftover in (*self._root.glob(f"*{PART}"), *self._root.glob(f"*{OLD}")):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(
        self,
        step: int,
        state: Any,
        *,
        data: Mapping[str, Any],
        config: Mapping[str, Any],
        object_names: Sequence[str] = (),
    ) -> None:
        """Starts to write a step; `wait` says when it is on disk.

        Args:
          state: a TrainState on the host, that nobody changes any more.
          object_names: of the rows of ObjectTemplates.

        Raises:
          UserError: the step before could not be written.
        """
        self.wait()
        if step in finished_steps(self._root.parent):
            return
        meta = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "data": dict(data),
            "config": dict(config),
            "objects": list(object_names),
        }
        # Made now: the iterator moves on.
        text = json.dumps(meta, indent=1)
        self._writer = threading.Thread(
            target=self._write, args=(step, state, text), name="checkpoint"
        )
        self._writer.start()

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
          UserError: the step could not be written; those before it are intact.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, step: int, state: Any, meta: str) -> None:
        part = self._root / f"{step}{PART}"
        try:
            _write_step(part, state, meta)
            os.replace(part, self._root / str(step))
            _sync(self._root)
            for old in finished_steps(self._root.parent)[: -self._keep]:
                _remove(self._root / str(old))
        except Exception as error:  # whatever it is, it must reach the main thread
            _clear(part)
            self._failure = UserError(
                f"{self._root / str(step)}: the checkpoint could not be written "
                f"({_line(error)}); those before it are intact"
            )


def _write_step(folder: Path, state: Any, meta: str) -> None:
    folder.mkdir()
    tree = jax.tree.map(np.asarray, state._asdict())
    with ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(), multiprocessing_options=_alone()
    ) as writer:
        writer.save(folder / STATE, args=ocp.args.PyTreeSave(tree))
    (folder / META).write_text(meta, encoding="utf-8")
    (folder / HASHES).write_text(json.dumps(_hashes(folder), indent=1))
    for path in (folder, *folder.rglob("*")):
        _sync(path)


def _clear(part: Path) -> None:
    """Removes what a failed write has left; other arrays may still be on their way."""
    for _ in range(CLEARINGS):
        shutil.rmtree(part, ignore_errors=True)
        if not part.exists():
            return
        time.sleep(0.1)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Every process has the whole state: none waits for another."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}
    )


def finished_steps(workdir: str | Path) -> list[int]:
    """Steps that were written to the end, oldest first."""
    root = Path(workdir) / FOLDER
    folders = root.iterdir() if root.is_dir() else ()
    return sorted(int(f.name) for f in folders if f.name.isdecimal() and f.is_dir())


def choose_step(
    workdir: str | Path, *, step: int | None = None, latest_valid: bool = False
) -> int:
    """The step to restore: the one asked for, or the newest; its files are verified.

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
            there = ", ".join(map(str, steps))
            raise UserError(
                f"{workdir}: no checkpoint of step {step}; there are {there}"
            )
        verify(workdir, step)
        return step
    for candidate in reversed(steps):
        try:
            verify(workdir, candidate)
        except UserError as error:
            if not latest_valid:
                raise
            print(f"passed over: {error}", flush=True)
        else:
            return candidate
    raise UserError(f"{workdir}: every checkpoint is damaged: {steps}")


def verify(workdir: str | Path, step: int) -> None:
    """Raises UserError naming the first file that is missing, new or changed."""
    folder = _step_folder(workdir, step)
    recorded = _read_json(folder, HASHES)
    found = _hashes(folder)
    for name in sorted({*recorded, *found}):
        if recorded.get(name) != found.get(name):
            raise UserError(_damage(folder, name))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from one of a step's own files."""
    try:
        with (folder / name).open("rb") as file:
            text = file.read(MAX_JSON_BYTES)
        values = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(_damage(folder, name)) from error
    if not isinstance(values, dict):
        raise UserError(_damage(folder, name))
    return values


def _damage(folder: Path, name: str) -> str:
    shown = name if name.isprintable() else repr(name)
    file = f"{folder}/{shown[:MAX_MESSAGE]}"
    return f"checkpoint of step {folder.name} is damaged: {file}; {REMEDY}"


def read_config(workdir: str | Path, step: int) -> dict[str, Any]:
    """The configuration stored with a checkpoint (JSON, never code)."""
    return _read_meta(_step_folder(workdir, step))["config"]


def read_object_names(workdir: str | Path, step: int) -> tuple[str, ...]:
    """Names of the objects trained with, row by row; () where a run noted none."""
    return _object_names(_read_meta(_step_folder(workdir, step)))


def restore(workdir: str | Path, step: int, template: Any) -> Restored:
    """Reads a step that `choose_step` has verified.

    Args:
      template: a TrainState of arrays, or of their shapes and types.

    Raises:
      UserError: the checkpoint is of another model; the parameters are listed.
    """
    folder = _step_folder(workdir, step)
    meta = _read_meta(folder)
    wanted = template._asdict()
    _check_same_parameters(folder, wanted)
    return Restored(
        step=step,
        state=type(template)(**_read_tree(folder, wanted)),
        data=meta["data"],
        config=meta["config"],
        object_names=_object_names(meta),
    )


def restore_params(workdir: str | Path, step: int, template: Any) -> Any:
    """Only the parameters of a verified step; `template` is their tree."""
    folder = _step_folder(workdir, step)
    _read_meta(folder)
    wanted = {"params": template}
    _check_same_parameters(folder, wanted)
    return _read_tree(folder, wanted)["params"]


def set_aside(workdir: str | Path, *, after: int) -> list[int]:
    """Moves the steps after one to `checkpoints/set_aside`, and says which.

    What was set aside before stays: 24 is 24.2 there, where there is a 24.
    For a run that goes on from an earlier step and will come by these again.
    """
    moved = [step for step in finished_steps(workdir) if step > after]
    for step in moved:
        folder = _step_folder(workdir, step)
        aside = folder.parent / ASIDE
        names = itertools.chain([""], (f".{number}" for number in itertools.count(2)))
        target = next(
            path
            for path in (aside / f"{folder.name}{name}" for name in names)
            if not path.exists()
        )
        try:
            aside.mkdir(exist_ok=True)
            os.replace(folder, target)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be set aside ({error.strerror})"
            ) from error
    return moved


def _step_folder(workdir: str | Path, step: int) -> Path:
    return Path(workdir).absolute() / FOLDER / str(step)


def _read_meta(folder: Path) -> dict[str, Any]:
    meta = _read_json(folder, META)
    version = meta.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}: checkpoint format {version!r:.40}, this program reads "
            f"{FORMAT_VERSION}; use the version of homae_jax that wrote it"
        )
    wanted = (("data", dict), ("config", dict), ("objects", list))
    meta.setdefault("objects", [])  # runs before it was noted
    if not all(isinstance(meta.get(key), kind) for key, kind in wanted):
        raise UserError(_damage(folder, META))
    for name in meta["objects"]:
        if not isinstance(name, str) or not name[:MAX_MESSAGE].isprintable():
            raise UserError(_damage(folder, META))
    return meta


def _object_names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name[:MAX_MESSAGE] for name in meta["objects"])


def _read_tree(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the state that are wanted, as numpy arrays of the types wanted."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), wanted)
    how = jax.tree.map(
        lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), shapes
    )
    arguments = ocp.args.PyTreeRestore(
        item=shapes, restore_args=how, partial_restore=True
    )
    with _reading(folder) as reader:
        return reader.restore(folder / STATE, args=arguments)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[ocp.Checkpointer]:
    """Orbax on a step's arrays, where a strange file may fail in any way."""
    try:
        with ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(), multiprocessing_options=_alone()
        ) as reader:
            yield reader
    except Exception as error:
        raise UserError(f"{folder / STATE}: cannot be read ({_line(error)})") from error


def _line(error: Exception) -> str:
    """The first line of a message; of a long one, the begin and the end."""
    line = (str(error).splitlines() or [repr(error)])[0]
    half = MAX_MESSAGE // 2
    return line if len(line) <= MAX_MESSAGE else f"{line[:half]} ... {line[-half:]}"


def _check_same_parameters(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Compares names and shapes before orbax does, whose messages name no parameter."""
    with _reading(folder) as reader:
        stored = reader.metadata(folder / STATE).item_metadata.tree
        _check_chunks(stored)
    want = _shapes(wanted)
    have = _shapes({name: stored[name] for name in wanted if name in stored})
    lines = [
        f"{name} (wanted {want.get(name, 'none')}, found {have.get(name, 'none')})"
        for name in sorted({*want, *have})
        if want.get(name) != have.get(name)
    ]
    if not lines:
        return
    what, advice = "another model", ""
    if all(line.startswith("opt_state/") for line in lines):
        what = "another optimiser (optimizer.*, model.encoder.freeze)"
        run = folder.parent.parent
        advice = (
            f"; to go on from its parameters, take a new --workdir and "
            f"--config.train.init_from={run}"
        )
    raise UserError(f"{folder}: the checkpoint is of {what}: {_listing(lines)}{advice}")


def _check_chunks(stored: Any) -> None:
    """Raises ValueError where an array is kept in pieces larger than itself.

    Reading one unpacks a piece, however much that is.
    """
    for leaf in jax.tree.leaves(stored):
        storage = getattr(leaf, "storage", None)
        chunk = getattr(storage, "chunk_shape", None) or ()
        if math.prod(chunk) > max(math.prod(leaf.shape), 1):
            raise ValueError(f"an array {leaf.shape} in pieces {chunk}")


def _listing(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "; ".join(lines[:MAX_LISTED]) + more


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in flat
    }


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder but the record itself, by relative name."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():  # leads out of the checkpoint
            raise UserError(_damage(folder, name))
        if path.is_file() and name != HASHES:
            with path.open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _sync(path: Path) -> None:
    """Sees a file, or the entries of a folder, on to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Removes a step; at no moment is half of it in its place."""
    old = folder.with_name(folder.name + OLD)
    os.replace(folder, old)
    shutil.rmtree(old, ignore_errors=True)
