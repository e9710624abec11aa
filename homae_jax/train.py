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
finish the step, save, exit; a second time: exit at once.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import flags

from homae_jax import config_flags, runtime
from homae_jax.errors import UserError

# JAX and what needs it are imported inside the functions, after the flags are read:
# --help and mistakes answer at once, and `runtime.prepare` comes before JAX.

NUM_PROCESSES = "num_processes"  # in a checkpoint, beside the place in the data
SCORES = "eval/"  # before the names of an evaluation's values

FLAGS = flags.FlagValues()
_CONFIG = config_flags.define_config(FLAGS)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run; default: runs/<name of the configuration>.",
    flag_values=FLAGS,
)
_ALLOW_CPU = flags.DEFINE_bool(
    "allow_cpu",
    False,
    "Train on a CPU even where the configuration wants a GPU.",
    flag_values=FLAGS,
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "Same bits on every run on a GPU too, at some speed.",
    flag_values=FLAGS,
)
_DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans",
    False,
    "Stop at the first operation that makes a NaN (slow).",
    flag_values=FLAGS,
)
_RESTORE_STEP = flags.DEFINE_integer(
    "restore_step",
    None,
    "Go on from this checkpoint; default: the newest.",
    flag_values=FLAGS,
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "One of several processes (SLURM, or JAX's own variables).",
    flag_values=FLAGS,
)
_RESTORE = flags.DEFINE_enum(
    "restore",
    "latest",
    ["latest", "latest_valid"],
    "Pass over damaged checkpoints?",
    flag_values=FLAGS,
)

GROUPS = {
    "What to train": ("config", "workdir"),
    "Where to go on from": ("restore_step", "restore"),
    "How to run": ("allow_cpu", "distributed", "deterministic", "debug_nans"),
}


class Length(NamedTuple):
    """How long a run is."""

    num_frames: int
    steps_per_epoch: int
    num_steps: int


class Run(NamedTuple):
    """What a run is made of, apart from its state."""

    config: ml_collections.ConfigDict
    workdir: Path
    parts: Any  # assembly.Parts
    source: Any  # of the training split
    batches: Any  # iterator over it, with a position
    length: Length
    scorer: Any  # scoring.Scorer, of the evaluation split


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
    runtime.keep_memory()
    _say(runtime.check_device(config.device, allow_cpu=_ALLOW_CPU.value))
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
    """A whole run: data, model, restore, steps, table.

    Args:
      restore_step: the checkpoint to go on from; None: the newest, if there is one.
      latest_valid: pass over damaged checkpoints.
    """
    import jax

    from homae_jax.training import parallel
    from homae_jax.training.interrupt import StopRequests
    from homae_jax.training.workdir import locked

    parallel.check_processes()
    parallel.check_batch_size(
        config.train.batch_size, config.train.accumulate, jax.device_count()
    )
    # What a run holds is freed while signals are still looked after: Python would lose
    # a Ctrl-C that comes then.
    with StopRequests() as stop, locked(own_folder(workdir)):
        _train_and_evaluate(
            config, workdir, stop, restore_step=restore_step, latest_valid=latest_valid
        )


def _train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    stop: Any,
    *,
    restore_step: int | None,
    latest_valid: bool,
) -> None:
    from homae_jax.training import parallel

    # 1. Data: frames, hand, objects; the network.
    run = open_run(config, workdir)
    with contextlib.closing(run.batches):
        # 2. State and step: parameters, optimiser, loss; on all devices.
        state, step = build_state_and_step(run)
        engine = parallel.make_engine(config.parallel.engine, step)

        # 3. Go on where the workdir is.
        state = restore(run, state, step=restore_step, latest_valid=latest_valid)

        # 4. Steps.
        state = run_steps(run, state, engine, stop)

        # 5. The table.
        is_over = int(state.step) == run.length.num_steps
        if is_over and stop.name is None:
            evaluate(run, state.params, int(state.step))
        else:
            then = "be scored" if is_over else "go on"
            _say(f"step {int(state.step)} is saved in {workdir}; start again to {then}")
        parallel.wait_for_all("end")


def own_folder(workdir: Path) -> Path:
    """Where this process locks and logs; the first of several has the workdir."""
    import jax

    index = jax.process_index()
    return workdir / f"process_{index}" if index else workdir


def open_wandb(run: Run) -> Any:
    """The run on Weights & Biases, where train.wandb asks for it; else None."""
    import jax

    from homae_jax.training.writers import WandbRun

    project = run.config.train.wandb
    if not project or jax.process_index():
        return None
    settings = run.config.to_dict()
    return WandbRun(project, name=run.config.name, workdir=run.workdir, config=settings)


def open_run(config: ml_collections.ConfigDict, workdir: Path) -> Run:
    """Makes the data ready, and reads what does not change."""
    import jax

    from homae_jax import assembly, scoring
    from homae_jax.models import attention
    from homae_jax.training import parallel

    if _is_first():
        assembly.prepare_data(config)
    parallel.wait_for_all("data")
    if not _is_first():
        assembly.prepare_data(config)  # made by the first, found by the others
    scoring.check(config)  # now, not after the last step
    parts = assembly.build_parts(config)
    attention.check_implementation(parts.model.encoder["attention"], parts.model.dtype)
    parallel.check_same_everywhere(
        "model.dtype (1: bfloat16)",
        int(parts.model.dtype == "bfloat16"),
        advice="their devices differ: set --config.model.dtype=float32",
    )
    source = assembly.build_source(config, config.data.train_split)
    length = run_length(config, len(assembly.train_frames(config, len(source))))
    batches = assembly.build_train_iterator(
        config,
        source,
        parts.object_names,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    scorer = scoring.Scorer(config, parts, split=config.data.eval_split)
    scorer.open()
    return Run(config, workdir, parts, source, batches, length, scorer)


def run_length(config: ml_collections.ConfigDict, num_frames: int) -> Length:
    """Epochs to steps; `train.steps` overrides `train.epochs`."""
    steps_per_epoch = num_frames // config.train.batch_size
    if not steps_per_epoch:
        raise UserError(
            f"train.batch_size={config.train.batch_size} is more than the {num_frames} "
            "frames there are"
        )
    num_steps = config.train.steps or round(config.train.epochs * steps_per_epoch)
    return Length(num_frames, steps_per_epoch, num_steps)


def build_state_and_step(run: Run) -> tuple[Any, Callable[..., Any]]:
    """The state before the first step; the step, (state, batch) -> (state, terms)."""
    import jax
    import jax.numpy as jnp

    from homae_jax import assembly, losses
    from homae_jax.training import checkpoint, optimizer
    from homae_jax.training.state import create_state
    from homae_jax.training.step import train_step

    config, length = run.config, run.length
    options = config.optimizer.to_dict()
    of_schedule = ("learning_rate", "schedule", "decay", "decay_epochs", "warmup_steps")
    rate = optimizer.learning_rate_schedule(
        steps_per_epoch=length.steps_per_epoch,
        num_steps=length.num_steps,
        **{name: options.pop(name) for name in of_schedule},
    )
    if checkpoint.finished_steps(run.workdir):  # a run that goes on fills them in
        params = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            assembly.param_shapes(config, run.parts),
        )
    else:
        params = assembly.initial_params(config, run.parts)
    freeze = config.model.encoder.freeze
    tx = optimizer.make_optimizer(
        params,
        rate,
        freeze_encoder=freeze,
        beta_floor=config.model.fusion.beta_floor,
        **options,
    )
    step = functools.partial(
        train_step,
        loss_fn=build_loss(run),
        tx=tx,
        rate=rate,
        accumulate=config.train.accumulate,
        count_rows=losses.count_rows,
    )
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    _say(
        f"{num_params / 1e6:.2f} M parameters, products in {run.parts.model.dtype}; "
        f"{length.num_frames} frames; "
        f"{length.num_steps} steps of {config.train.batch_size} "
        f"({length.num_steps / length.steps_per_epoch:.1f} epochs)"
    )
    return create_state(params, tx, config.seed), step


def build_loss(run: Run) -> Callable[..., Any]:
    """(params, batch, key, step) -> (loss, terms)."""
    from homae_jax import assembly
    from homae_jax.training import objective, optimizer

    config, length = run.config, run.length
    switch_step = round(config.train.switch_epoch * length.steps_per_epoch)
    is_switched = switch_step < length.num_steps
    return objective.make_loss_fn(
        run.parts.model,
        mano=run.parts.mano,
        templates=run.parts.templates,
        target_options=assembly.target_options(config),
        loss_options=assembly.loss_options(config),
        jitter=config.targets.point_jitter,
        steps_per_epoch=length.steps_per_epoch,
        switch_step=switch_step,
        own_points_probability=(
            config.train.own_points_probability if is_switched else 0.0
        ),
        frozen=(optimizer.ENCODER,) if config.model.encoder.freeze else (),
        recolour=assembly.colours_on_device(config),
    )


def restore(run: Run, state: Any, *, step: int | None, latest_valid: bool) -> Any:
    """The state to go on from; moves the batches to where they were.

    Raises:
      UserError: the run has gone further than it is now asked to.
    """
    from homae_jax import assembly
    from homae_jax.training import checkpoint, parallel

    workdir = run.workdir
    has_none = not checkpoint.finished_steps(workdir) and step is None
    if not has_none:
        step = checkpoint.choose_step(workdir, step=step, latest_valid=latest_valid)
    parallel.check_same_everywhere(
        "the checkpoint to go on from", 0 if step is None else step
    )
    if has_none:
        return state
    if step > run.length.num_steps:
        raise UserError(
            f"{workdir}: is at step {step}, and train.steps or train.epochs ask for "
            f"{run.length.num_steps}: ask for more, give another --workdir, or see "
            f"what is there by python -m homae_jax.evaluate --workdir={workdir}"
        )
    found = checkpoint.restore(workdir, step, state)
    assembly.check_objects(run.config, run.parts.object_names, found.object_names)
    _set_position(run, found.data)
    num_steps, per_epoch = run.length.num_steps, run.length.steps_per_epoch
    _say(
        f"goes on from step {step} of {num_steps}, epoch {step / per_epoch:.1f} of "
        f"{num_steps / per_epoch:.1f}, of {workdir}"
    )
    for later in checkpoint.set_aside(workdir, after=step) if _is_first() else ():
        _say(f"checkpoint of step {later} set aside")
    stored = ml_collections.ConfigDict(found.config)
    for key, now, then in config_flags.differences(run.config, stored):
        _say(f"changed since: {key} from {then} to {now}")
    return found.state


def run_steps(run: Run, state: Any, engine: Any, stop: Any) -> Any:
    """The loop: batch, step, log, save, look. Returns the last state, on the host."""
    from homae_jax.training import parallel
    from homae_jax.training.meter import IntervalMeter
    from homae_jax.training.writers import MetricWriter

    options, num_steps = run.config.train, run.length.num_steps
    meter = IntervalMeter(batch_size=options.batch_size)
    step = first = int(state.step)
    writer = MetricWriter(
        own_folder(run.workdir),
        first_step=first,
        num_steps=num_steps,
        wandb=open_wandb(run),
    )
    rare = (options.figures_every, options.eval_every)
    saver = Saver(run)
    state = engine.put_state(state)
    is_last = step >= num_steps

    def is_stopping() -> bool:
        return stop.name is not None

    def save() -> None:
        saver.save(engine.to_host(state))

    def save_at_once() -> str:
        return saver.save_at_once(engine.to_host(state))

    def score() -> None:
        with _only_warning("evaluation", step):
            params = engine.to_host(state.params)
            result = evaluate(run, params, step, is_unwanted=is_stopping)
            writer.record(step, _scores(result))

    with (
        contextlib.ExitStack() as signals,
        contextlib.closing(writer),
        contextlib.closing(saver),
        parallel.naming_the_lost(),
    ):
        if first and not is_last and _is_due(first, options.eval_every):
            if _is_first() and not writer.has(first, SCORES):
                _say(f"step {first} is saved, but was not scored before the run ended")
                score()
            parallel.wait_for_all(f"scores of step {first}")
        while not is_last:
            with meter.waiting():
                batch = _next_batch(run.batches, step, save_at_once)
            state, terms = engine.step(state, engine.put_batch(batch))
            step += 1
            meter.add(step, terms, batch.sample_index)
            if step == first + 1:
                signals.enter_context(stop.stepping())
                _say(f"compiled in {meter.compile_seconds:.0f} s")
            is_last = step == num_steps
            if parallel.is_time_to_ask(step):
                is_last |= parallel.is_wanted_by_any(is_stopping())
            if is_last or _is_due(step, options.log_every):
                log(meter.end(), writer, run, save=save_at_once)
            is_scored = _is_due(step, options.eval_every) and not is_last
            # Before it is scored too: that takes long, and may end in a kill.
            if is_last or is_scored or _is_due(step, options.checkpoint_every):
                log(meter.flush(), writer, run, save=save_at_once)
                save()
            with meter.pausing():
                if _is_first() and _is_due(step, options.figures_every):
                    with _only_warning("preview", step):
                        params = engine.to_host(state.params)
                        writer.images(step, run.scorer.preview(params))
                if is_scored:
                    score()
                if any(_is_due(step, n) for n in rare):
                    parallel.wait_for_all(f"step {step}")
            if is_scored:  # and saved: asked to stop meanwhile, it goes on from here
                is_last = parallel.is_wanted_by_any(is_stopping())
                if is_last:
                    log(meter.end(), writer, run, save=save_at_once)
        log(meter.flush(), writer, run, save=save_at_once)
    return engine.to_host(state)


@contextlib.contextmanager
def _only_warning(what: str, step: int) -> Iterator[None]:
    """What is only looked at on the way does not end a training where it fails."""
    from homae_jax.scoring import Unwanted

    try:
        yield
    except Unwanted:
        _say(f"{what} at step {step} left off: asked to stop")
    except (UserError, OSError) as error:
        _say(f"warning: {what} at step {step} failed, the run goes on: {error}")


def evaluate(
    run: Run, params: Any, step: int, *, is_unwanted: Callable[[], bool] | None = None
) -> Any:
    """Scores a step's parameters on the evaluation split; prints the table.

    Args:
      is_unwanted: of a step on the way: whether to leave off; None: of the last step.
    """
    if not _is_first():
        return {}
    return run.scorer.evaluate(
        params,
        workdir=run.workdir,
        step=step,
        is_on_the_way=is_unwanted is not None,
        is_unwanted=is_unwanted,
        ends_training=is_unwanted is None,
    )


def log(interval: Any, writer: Any, run: Run, *, save: Callable[[], str]) -> None:
    """Writes an interval's values and names the batches that were not applied.

    Raises:
      UserError: nothing was finite for too long; what there is was saved before that.
    """
    if interval is None:
        return
    writer.scalars(interval.step, interval.values)
    for skipped in interval.skipped:
        names = ", ".join(run.source.frame_name(int(row)) for row in skipped.rows)
        _say(f"step {skipped.step} not applied, loss or gradient not finite: {names}")
    most = run.config.train.max_skipped_in_a_row
    if interval.values["num_skipped_in_a_row"] >= most > 0:
        raise UserError(
            f"step {interval.step}: loss or gradient was not finite for {most} steps "
            f"in a row; the last good parameters: {save()}; try a lower "
            "optimizer.learning_rate, or --debug_nans"
        )


class Saver:
    """Checkpoints of a run, by the first of several processes."""

    def __init__(self, run: Run):
        from homae_jax.training.checkpoint import Checkpointer

        keep = run.config.train.keep_checkpoints
        self._run = run
        self._writer = Checkpointer(run.workdir, keep=keep) if _is_first() else None

    def save(self, state: Any) -> None:
        """Starts to save.

        Raises:
          UserError: the save before failed, and the run is to stop then.
        """
        if self._writer is None:
            return
        try:
            self._writer.wait()
        except UserError as error:
            if self._run.config.train.on_failed_save == "stop":
                raise
            _say(f"warning: {error}")
        self._start(state)

    def save_at_once(self, state: Any) -> str:
        """Saves to the end; says what came of it. For a run that has to stop."""
        if self._writer is None:
            return "only the first process saves; go on from its last checkpoint"
        with contextlib.suppress(UserError):  # of the save before; this one may do
            self._writer.wait()
        try:
            self._start(state)
            self._writer.wait()
        except UserError as error:
            return f"not saved ({error})"
        return f"step {int(state.step)} is saved"

    def _start(self, state: Any) -> None:
        self._writer.save(
            int(state.step),
            state,
            data=_position(self._run),
            config=self._run.config.to_dict(),
            object_names=self._run.parts.object_names,
        )

    def close(self) -> None:
        """Waits for the last checkpoint.

        Raises:
          UserError: it could not be written.
        """
        if self._writer is not None:
            self._writer.wait()


def _position(run: Run) -> dict[str, Any]:
    """Where the batches are; of several processes, each has its share behind it."""
    import jax

    state = run.batches.get_state()
    num = jax.process_count()
    return state | {NUM_PROCESSES: num} if num > 1 else state


def _set_position(run: Run, stored: dict[str, Any]) -> None:
    """Moves the batches to where a checkpoint was, in however many processes."""
    import jax

    state = dict(stored)
    before, now = state.pop(NUM_PROCESSES, 1), jax.process_count()
    try:
        if before != now:
            state = {"next_index": state["next_index"] * before // now}
        run.batches.set_state(state)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if before != now:
            raise UserError(
                f"{run.workdir}: its place in the data is of {before} processes with "
                f"data.workers, and here are {now}; go on with as many, or in a new "
                f"--workdir with --config.train.init_from={run.workdir}"
            ) from error
        raise UserError(
            f"{run.workdir}: its place in the data is of another data.workers; go on "
            f"with as many, or in a new --workdir with --config.train.init_from="
            f"{run.workdir}"
        ) from error


def _next_batch(batches: Any, step: int, save: Callable[[], str]) -> Any:
    """The next batch; where it cannot be read, what was reached is saved first."""
    try:
        return next(batches)
    except (UserError, OSError) as error:
        raise UserError(f"after step {step}: {error}; {save()}") from error


def _is_first() -> bool:
    """Whether this process is the one that writes."""
    import jax

    return jax.process_index() == 0


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _scores(result: Any) -> dict[str, float]:
    """The numbers of a result, for the log."""
    metrics = result.get("metrics", {})
    return {f"{SCORES}{k}": v for k, v in metrics.items() if isinstance(v, float)}


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a console that is a file on a full disk
        print(text, file=sys.stdout, flush=True)


if __name__ == "__main__":
    config_flags.run(main, FLAGS, GROUPS)
