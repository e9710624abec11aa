"""Trains the model that a configuration describes, then evaluates it.

Examples:

  # a small model on scenes made at first use; no data set, no GPU needed
  python -m homae_jax.train --config=configs/synthetic.py

  # the paper's setting on HO-3D v2
  python -m homae_jax.train --config=configs/ho3d.py \\
      --config.data.root=/data/HO3D_v2 --workdir=runs/ho3d

  # any key of configs/common.py can be overridden
  python -m homae_jax.train --config=configs/ho3d.py --config.train.batch_size=12

Started again with the same workdir, a run goes on where it was. Ctrl-C or SIGTERM:
finish the step, save, exit; a second Ctrl-C exits at once.
"""

import contextlib
import fcntl
import functools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from homae_jax import config_flags, runtime
from homae_jax.errors import UserError

MAX_SKIPPED_IN_A_ROW = 20  # steps that are not finite before a run gives up

_CONFIG = config_flags.define_config()
flags.declare_key_flag("config")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: runs/<name of the configuration>."
)
_ALLOW_CPU = flags.DEFINE_bool(
    "allow_cpu", False, "Train on a CPU even where the configuration wants a GPU."
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "Same bits on every run on a GPU too, at some speed."
)
_DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans", False, "Stop at the first operation that makes a NaN (slow)."
)
_RESTORE_STEP = flags.DEFINE_integer(
    "restore_step", None, "Go on from this checkpoint; default: the newest."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes (SLURM, or JAX's own variables)."
)
_RESTORE = flags.DEFINE_enum(
    "restore", "latest", ["latest", "latest_valid"], "Pass over damaged checkpoints?"
)


def main(argv: Sequence[str]) -> int:
    """Entry point: flags, then plain calls."""
    del argv
    config = _CONFIG.value
    if config is None:
        raise UserError("--config=FILE is missing, such as configs/synthetic.py")
    workdir = Path(_WORKDIR.value or f"runs/{config.name}")
    runtime.prepare(deterministic=_DETERMINISTIC.value, debug_nans=_DEBUG_NANS.value)
    if _DISTRIBUTED.value:
        runtime.join_processes()
    print(runtime.check_device(config.device, allow_cpu=_ALLOW_CPU.value), flush=True)
    with locked(workdir):
        train_and_evaluate(
            config,
            workdir,
            restore_step=_RESTORE_STEP.value,
            latest_valid=_RESTORE.value == "latest_valid",
        )
    return 0


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    restore_step: int | None = None,
    latest_valid: bool = False,
) -> None:
    """A whole run: data, model, restore, loop, evaluation."""
    import jax

    from homae_jax import assembly, scoring
    from homae_jax.training import checkpoint, parallel
    from homae_jax.training.objective import make_loss_fn
    from homae_jax.training.optimizer import learning_rate_schedule, make_optimizer
    from homae_jax.training.state import create_state
    from homae_jax.training.step import train_step

    # 1. Data: frames, hand, objects; the network.
    parallel.check_batch_size(
        config.train.batch_size, config.train.accumulate, jax.device_count()
    )
    assembly.prepare_data(config)
    parts = assembly.build_parts(config)
    source = assembly.build_source(config, config.data.train_split)
    num_frames = len(assembly.train_frames(config, len(source)))
    steps_per_epoch = max(num_frames // config.train.batch_size, 1)
    num_steps = config.train.steps or round(config.train.epochs * steps_per_epoch)

    # 2. State: parameters, optimiser.
    params = assembly.initial_params(config, parts)
    rate = learning_rate_schedule(
        learning_rate=config.optimizer.learning_rate,
        schedule=config.optimizer.schedule,
        decay=config.optimizer.decay,
        decay_epochs=config.optimizer.decay_epochs,
        warmup_steps=config.optimizer.warmup_steps,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
    )
    tx = make_optimizer(
        params,
        rate,
        b1=config.optimizer.b1,
        b2=config.optimizer.b2,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
        encoder_lr_multiplier=config.optimizer.encoder_lr_multiplier,
        encoder_layer_decay=config.optimizer.encoder_layer_decay,
        freeze_encoder=config.model.encoder.freeze,
    )
    state = create_state(params, tx, config.seed)
    num_params = sum(p.size for p in jax.tree.leaves(params))
    print(
        f"{num_params / 1e6:.2f} M parameters, {num_frames} frames, {num_steps} steps "
        f"of {config.train.batch_size} ({num_steps / steps_per_epoch:.1f} epochs)",
        flush=True,
    )

    # 3. The step, on all devices.
    loss_fn = make_loss_fn(
        parts.model,
        mano=parts.mano,
        templates=parts.templates,
        target_options=assembly.target_options(config),
        loss_options=assembly.loss_options(config),
        jitter=config.targets.point_jitter,
        steps_per_epoch=steps_per_epoch,
        switch_step=round(config.train.switch_epoch * steps_per_epoch),
        own_points_probability=config.train.own_points_probability,
    )
    step_fn = functools.partial(
        train_step,
        loss_fn=loss_fn,
        tx=tx,
        rate=rate,
        accumulate=config.train.accumulate,
    )
    engine = parallel.make_engine(config.parallel.engine, step_fn)
    batches = assembly.build_train_iterator(
        config,
        source,
        parts.object_names,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    with contextlib.closing(batches), stop_requests() as is_stopped:
        # 4. Go on where the workdir is.
        if checkpoint.finished_steps(workdir):
            chosen = checkpoint.choose_step(
                workdir, step=restore_step, latest_valid=latest_valid
            )
            found = checkpoint.restore(workdir, chosen, state)
            state = found.state
            batches.set_state(found.data)
            print(f"restored step {chosen} of {workdir}", flush=True)

        # 5. Steps.
        state = run_steps(
            config, workdir, state, engine, batches, num_steps, is_stopped
        )

    # 6. The table.
    if int(state.step) < num_steps:
        print(f"stopped at step {int(state.step)}: saved, start again to go on")
        return
    scoring.evaluate_state(
        config,
        state.params,
        parts=parts,
        workdir=workdir,
        split=config.data.eval_split,
        step=int(state.step),
    )


def run_steps(
    config: ml_collections.ConfigDict,
    workdir: Path,
    state: Any,
    engine: Any,
    batches: Any,
    num_steps: int,
    is_stopped: Any,
) -> Any:
    """The loop: batch, step, log, save. Returns the state of the last step."""
    from homae_jax.training.checkpoint import Checkpointer
    from homae_jax.training.writers import MetricWriter

    first_step = int(state.step)
    saver = Checkpointer(workdir, keep=config.train.keep_checkpoints)
    writer = MetricWriter(workdir, first_step=first_step, num_steps=num_steps)
    on_device = engine.put_state(state)
    log = IntervalLog(writer, config.train.batch_size)

    def save(step: int) -> None:
        saver.save(
            step,
            engine.get_state(on_device),
            data=batches.get_state(),
            config=config.to_dict(),
        )

    with contextlib.closing(writer):
        for step in range(first_step + 1, num_steps + 1):
            with log.waiting():
                batch = engine.put_batch(next(batches))
            on_device, terms = engine.step(on_device, batch)
            is_logged = step % config.train.log_every == 0 or step == num_steps
            if is_logged and log.interval(step, terms) >= MAX_SKIPPED_IN_A_ROW:
                save(step)
                raise UserError(
                    f"step {step}: loss or gradient was not finite for "
                    f"{MAX_SKIPPED_IN_A_ROW} steps in a row; the last good parameters "
                    f"are saved in {workdir}; try a lower optimizer.learning_rate"
                )
            is_last = step == num_steps or is_stopped()
            if step % config.train.checkpoint_every == 0 or is_last:
                save(step)
            if is_last:
                break
        log.flush()
    return engine.get_state(on_device)


class IntervalLog:
    """Logs the terms of an interval's last step, one interval late.

    The numbers of a step are asked for when the next interval ends, so that the
    device never waits for the host to look at them.
    """

    def __init__(self, writer: Any, batch_size: int):
        self._writer, self._batch_size = writer, batch_size
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start
        self._steps += 1

    def interval(self, step: int, terms: dict[str, Any]) -> int:
        """Ends an interval; returns how many steps in a row the last was skipped."""
        num_skipped = self.flush()
        spent = time.monotonic() - self._start
        speed = {
            "images_per_second": self._steps * self._batch_size / spent,
            "data_wait_share": self._waited / spent,
        }
        self._pending = (step, {**terms, **speed})
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0
        return num_skipped

    def flush(self) -> int:
        """Writes what is pending; returns its count of skipped steps in a row."""
        if self._pending is None:
            return 0
        step, terms = self._pending
        self._writer.scalars(step, terms)
        self._pending = None
        return int(terms["num_skipped_in_a_row"])


@contextlib.contextmanager
def stop_requests() -> Iterator[Any]:
    """A function that says whether SIGTERM or Ctrl-C came; the second Ctrl-C kills."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if received and number == signal.SIGINT:
            os._exit(130)
        received.append(number)
        print("stopping after this step (Ctrl-C again: at once)", file=sys.stderr)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps a second training out of the workdir."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--workdir={workdir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--workdir={workdir}: the training with pid {file.read().strip()} is "
                "running there; choose another workdir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


if __name__ == "__main__":
    config_flags.run(main)
