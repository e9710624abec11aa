"""The training loop: it goes on exactly, stops when asked, and loses nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import pytest

from homae_jax import assembly, config_flags, scoring, train
from homae_jax.config_flags import Override
from homae_jax.errors import UserError
from homae_jax.training import checkpoint, parallel
from tests import toy_training

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config_file() -> Path:
    return toy_training.CONFIG


def load(config_file: Path, **changes):
    overrides = [Override(f"train.{key}", str(value)) for key, value in changes.items()]
    return config_flags.load_config(str(config_file), overrides)


def final(workdir: Path, config) -> checkpoint.Restored:
    step = checkpoint.choose_step(workdir)
    return checkpoint.restore(workdir, step, toy_training.template(config))


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def assert_same_run(workdir: Path, other: Path, config) -> None:
    """Parameters, moments, random numbers and place in the data, to the bit."""
    ours, theirs = final(workdir, config), final(other, config)
    chex.assert_trees_all_equal(ours.state, theirs.state)
    assert ours.data == theirs.data


def test_train_goes_on_to_the_bit_where_it_stopped(monkeypatch, config_file, tmp_path):
    toy_training.install(monkeypatch)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train_and_evaluate(load(config_file), whole)
    for steps in (7, 15, 24):
        train.train_and_evaluate(load(config_file, steps=steps), parts)
    assert_same_run(whole, parts, load(config_file))
    assert sorted(losses(whole)) == [4, 8, 12, 16, 20, 24]


def test_train_logs_and_evaluates(monkeypatch, config_file, tmp_path, capsys):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file, eval_every=10), tmp_path)
    out = capsys.readouterr().out
    evaluated = [line for line in out.splitlines() if line.startswith("evaluated")]
    on_the_way = [f"evaluated step {n} on the way" for n in (10, 20)]
    assert evaluated == [*on_the_way, "evaluated step 24"]
    assert "step 24/24" in out
    rows = [
        json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert {"step": 10, "eval/mje_mm": 1.0} in rows
    row = next(row for row in rows if row["step"] == 24)
    wanted = {
        "loss", "mse", "lr", "grad_norm", "param_norm", "update_norm", "num_skipped",
        "images_per_second", "data_wait_share",
    }  # fmt: skip
    assert wanted <= set(row)
    assert list(tmp_path.glob("tensorboard/events*"))


@pytest.mark.parametrize(
    "error", [UserError("S/1: no such picture"), OSError(28, "No space left")]
)
def test_an_evaluation_on_the_way_that_fails_loses_nothing(
    monkeypatch, config_file, tmp_path, capsys, error
):
    """It ended the run, with all since the last checkpoint."""
    toy_training.install(monkeypatch)
    evaluate, saved = train.evaluate, []

    def failing(run, params, step, *, is_unwanted=None):
        if is_unwanted:
            saved.append(step in checkpoint.finished_steps(tmp_path))
            raise error
        return evaluate(run, params, step)

    monkeypatch.setattr(train, "evaluate", failing)
    monkeypatch.setattr(train.Saver, "save", saving_at_once(train.Saver.save))
    config = load(config_file, eval_every=10, checkpoint_every=1000)
    train.train_and_evaluate(config, tmp_path)
    out = capsys.readouterr().out
    assert out.count("warning: evaluation at step") == 2 and "evaluated step 24" in out
    assert saved == [True, True]


def test_a_stop_leaves_off_an_evaluation_on_the_way(
    monkeypatch, config_file, tmp_path, capsys
):
    """A job that is told to end waited for the whole of it, and was killed."""
    toy_training.install(monkeypatch)
    evaluate = train.evaluate

    def long(run, params, step, *, is_unwanted=None):
        if is_unwanted:
            assert not is_unwanted()
            os.kill(os.getpid(), signal.SIGTERM)
            assert is_unwanted()
            raise scoring.Unwanted
        return evaluate(run, params, step)

    config = load(config_file, eval_every=10, checkpoint_every=1000)
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", long)
        train.train_and_evaluate(config, tmp_path / "stopped")
    lines = capsys.readouterr().out.splitlines()
    last = lines[-1]
    assert "evaluation at step 10 left off: asked to stop" in lines
    assert last.startswith("step 10 is saved in") and last.endswith("to go on")
    assert checkpoint.finished_steps(tmp_path / "stopped") == [10]
    train.train_and_evaluate(config, tmp_path / "stopped")
    out = capsys.readouterr().out
    assert out.index("evaluated step 10 on the way") < out.index("step 12/24")
    assert out.count("evaluated step") == 3
    train.train_and_evaluate(config, tmp_path / "whole")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", config)


def test_a_run_killed_in_an_evaluation_on_the_way_makes_up_for_it(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch)
    evaluate = train.evaluate

    def dying(run, params, step, *, is_unwanted=None):
        if step == 20:
            raise KeyboardInterrupt  # whatever is saved by now is all there is
        return evaluate(run, params, step, is_unwanted=is_unwanted)

    config = load(config_file, eval_every=10)
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", dying)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path)
    assert checkpoint.choose_step(tmp_path) == 20
    capsys.readouterr()
    train.train_and_evaluate(config, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    evaluated = [line for line in lines if line.startswith("evaluated")]
    assert evaluated == ["evaluated step 20 on the way", "evaluated step 24"]
    (tmp_path / "checkpoints" / "24").rename(tmp_path / "later")
    train.train_and_evaluate(config, tmp_path)  # from 20, which is scored now
    assert "on the way" not in capsys.readouterr().out


def test_a_stop_in_the_last_step_leaves_its_scores_to_the_next_start(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch)
    next_batch = train._next_batch

    def stopping(batches, step, save):
        if step == 23:
            os.kill(os.getpid(), signal.SIGINT)
        return next_batch(batches, step, save)

    config = load(config_file)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_next_batch", stopping)
        train.train_and_evaluate(config, tmp_path)
    out = capsys.readouterr().out
    assert out.endswith("; start again to be scored\n") and "evaluated" not in out
    train.train_and_evaluate(config, tmp_path)
    assert "evaluated step 24" in capsys.readouterr().out


def saving_at_once(save):
    """`save`, which waits until it is on disk."""

    def waiting(self, state):
        save(self, state)
        self._writer.wait()

    return waiting


def test_a_line_is_written_before_its_checkpoint(monkeypatch, config_file, tmp_path):
    """Killed between the two, a run lacked that line for good."""
    toy_training.install(monkeypatch)
    save, seen = train.Saver.save, []

    def looking(self, state):
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        seen.append((int(state.step), json.loads(lines[-1])["step"]))
        save(self, state)

    monkeypatch.setattr(train.Saver, "save", looking)
    config = load(config_file, checkpoint_every=8, log_every=4)
    train.train_and_evaluate(config, tmp_path)
    assert seen == [(8, 8), (16, 16), (24, 24)]


def test_train_again_when_done_only_evaluates(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file), tmp_path)
    capsys.readouterr()
    train.train_and_evaluate(load(config_file), tmp_path)
    out = capsys.readouterr().out
    assert "evaluated step 24" in out
    assert "compiled" not in out


def test_train_says_that_a_run_has_gone_further_than_asked(
    monkeypatch, config_file, tmp_path
):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file, steps=6), tmp_path)
    with pytest.raises(UserError, match=r"is at step 6, and .* ask for 4: .*evaluate"):
        train.train_and_evaluate(load(config_file, steps=4), tmp_path)


def test_train_says_what_changed_since_the_checkpoint(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file, steps=3), tmp_path)
    train.train_and_evaluate(load(config_file, steps=6), tmp_path)
    out = capsys.readouterr().out
    assert "changed since: train.steps from 3 to 6" in out
    assert out.count("changed since") == 1


def test_train_names_a_batch_that_it_does_not_apply(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch, bad={3: "nan"})
    train.train_and_evaluate(load(config_file), tmp_path)
    out = capsys.readouterr().out
    named = [line for line in out.splitlines() if "not applied" in line]
    assert len(named) == 3  # three epochs
    assert all("toy/0003" in line for line in named)
    assert int(final(tmp_path, load(config_file)).state.num_skipped) == 3


def test_train_gives_up_when_nothing_is_finite(monkeypatch, config_file, tmp_path):
    bad = dict.fromkeys(range(toy_training.NUM_FRAMES), "nan")
    toy_training.install(monkeypatch, bad=bad)
    with pytest.raises(UserError, match=r"not finite for 20 steps in a row"):
        train.train_and_evaluate(load(config_file, steps=100), tmp_path)
    state = final(tmp_path, load(config_file)).state
    chex.assert_trees_all_equal(
        state.params, toy_training.template(load(config_file)).params
    )


def test_train_saves_before_it_stops_at_an_unreadable_frame(
    monkeypatch, config_file, tmp_path
):
    toy_training.install(monkeypatch, bad={5: "gone"})
    wanted = r"after step (\d): .*toy/0005.*; step \1 is saved"
    with pytest.raises(UserError, match=wanted):
        train.train_and_evaluate(load(config_file), tmp_path)
    assert checkpoint.finished_steps(tmp_path)


def test_train_refuses_a_damaged_checkpoint_and_goes_on_from_another_when_told(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train_and_evaluate(load(config_file), whole)
    train.train_and_evaluate(load(config_file, steps=12), parts)
    meta = parts / "checkpoints" / "12" / "meta.json"
    meta.write_text(meta.read_text().replace("toy", "tay"))
    with pytest.raises(
        UserError, match=r"step 12 is damaged: .*meta.json.*latest_valid"
    ):
        train.train_and_evaluate(load(config_file), parts)
    train.train_and_evaluate(load(config_file), parts, latest_valid=True)
    out = capsys.readouterr().out
    assert "goes on from step 10" in out
    assert "checkpoint of step 12 set aside" in out
    assert_same_run(whole, parts, load(config_file))


def test_train_goes_on_with_the_objects_it_began_with(
    monkeypatch, config_file, tmp_path
):
    """A model more in the folder moves the rows that objects are known by."""
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file, steps=10), tmp_path)
    assert assembly.open_run(tmp_path).object_names == ("cube", "ball")
    open_run = train.open_run

    def other_objects(config, workdir):
        parts = SimpleNamespace(object_names=("cone", "cube", "ball"))
        return open_run(config, workdir)._replace(parts=parts)

    monkeypatch.setattr(train, "open_run", other_objects)
    config = load(config_file)
    config.data.root, config.model.auxiliary = str(tmp_path), True
    with pytest.raises(UserError, match="not the objects trained with, but with cone"):
        train.train_and_evaluate(config, tmp_path)
    config.model.auxiliary = False  # nobody asks for names then
    train.train_and_evaluate(config, tmp_path)


def test_train_goes_back_to_the_step_asked_for(monkeypatch, config_file, tmp_path):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file), tmp_path / "a")
    before = final(tmp_path / "a", load(config_file))
    train.train_and_evaluate(load(config_file), tmp_path / "a", restore_step=15)
    chex.assert_trees_all_equal(
        final(tmp_path / "a", load(config_file)).state, before.state
    )
    with pytest.raises(UserError, match="no checkpoint of step 3; there are"):
        train.train_and_evaluate(load(config_file), tmp_path / "a", restore_step=3)


def test_train_goes_on_or_stops_when_a_checkpoint_cannot_be_written(
    monkeypatch, config_file, tmp_path, capsys
):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file, steps=5), tmp_path)
    write = checkpoint._write_step

    def write_later(folder: Path, *content):
        if folder.name < "20":  # until then, the disk is full
            folder.mkdir()
            raise OSError(28, "No space left on device")
        write(folder, *content)

    monkeypatch.setattr(checkpoint, "_write_step", write_later)
    with pytest.raises(UserError, match=r"/10: .*No space left.*are intact"):
        train.train_and_evaluate(load(config_file, on_failed_save="stop"), tmp_path)
    assert checkpoint.choose_step(tmp_path) == 5
    train.train_and_evaluate(load(config_file, on_failed_save="go_on"), tmp_path)
    assert "checkpoints/10: the checkpoint could not be" in capsys.readouterr().out
    assert checkpoint.finished_steps(tmp_path) == [5, 20, 24]


def test_train_saves_the_last_good_state_after_as_many_steps_as_asked(
    monkeypatch, config_file, tmp_path
):
    toy_training.install(
        monkeypatch, bad=dict.fromkeys(range(toy_training.NUM_FRAMES), "nan")
    )
    with pytest.raises(UserError, match=r"for 3 steps in a row.*is saved"):
        train.train_and_evaluate(
            load(config_file, steps=100, max_skipped_in_a_row=3, log_every=1), tmp_path
        )
    assert int(final(tmp_path, load(config_file)).state.num_skipped) <= 5


def test_debug_nans_stops_at_the_step_and_only_there(
    monkeypatch, config_file, tmp_path
):
    with jax.debug_nans(True):
        toy_training.install(monkeypatch)
        train.train_and_evaluate(load(config_file), tmp_path / "good")
        toy_training.install(monkeypatch, bad={3: "nan"})
        with pytest.raises(FloatingPointError, match="nan"):
            train.train_and_evaluate(load(config_file), tmp_path / "bad")


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("ho3d", "protocol.boxes", "predicted", "trained without auxiliary heads"),
        ("ho3d", "data.eval_split", "test", "test.txt: not found"),
        ("dexycb", "data.eval_split", "s9_test", 'DexYCB has no split "s9_test"'),
    ],
)
def test_what_cannot_be_scored_is_said_before_the_first_step(
    monkeypatch, tmp_path, name, key, value, message
):
    monkeypatch.setattr(assembly, "prepare_data", lambda config: None)
    overrides = [Override("data.root", str(tmp_path)), Override(key, value)]
    config = config_flags.load_config(str(ROOT / f"configs/{name}.py"), overrides)
    with pytest.raises(UserError, match=re.escape(message)):
        train.open_run(config, tmp_path / "run")


def test_an_attention_that_this_device_lacks_is_refused_before_the_first_step(
    monkeypatch, tmp_path
):
    overrides = [Override("model.encoder.attention", "cudnn")]
    overrides += [Override("model.dtype", "bfloat16")]
    path = str(ROOT / "configs/synthetic.py")
    config = config_flags.load_config(path, overrides)
    parts = SimpleNamespace(model=assembly.build_model(config))
    monkeypatch.setattr(assembly, "prepare_data", lambda config: None)
    monkeypatch.setattr(assembly, "build_parts", lambda config: parts)
    monkeypatch.setattr(scoring, "check", lambda config: None)
    with pytest.raises(UserError, match="needs an NVIDIA GPU, this run is on cpu"):
        train.open_run(config, tmp_path / "run")


def test_run_length_refuses_a_batch_larger_than_the_data(config_file):
    with pytest.raises(UserError, match="batch_size=8 is more than the 7 frames"):
        train.run_length(load(config_file), 7)


def start(config_file: Path, workdir: Path, *arguments: str, devices: int = 1):
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.toy_training", f"--config={config_file}",
            f"--workdir={workdir}", *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
    )  # fmt: skip


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("engine", ["mesh", "pmap"])
def test_a_killed_training_goes_on_to_the_bit(config_file, tmp_path, engine):
    argument = f"--config.parallel.engine={engine}"
    killed = tmp_path / "killed"
    process = start(config_file, killed, argument)
    wait_for(process, "step 8/24")
    process.kill()
    process.communicate()
    process = start(config_file, killed, argument)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "goes on from step" in out
    process = start(config_file, tmp_path / "whole", argument)
    process.communicate(timeout=600)
    assert_same_run(killed, tmp_path / "whole", load(config_file))
    assert losses(killed).keys() == losses(tmp_path / "whole").keys()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_saves_and_says_so_in_one_line(
    config_file, tmp_path, number
):
    process = start(config_file, tmp_path / "run", "--config.train.steps=100000")
    wait_for(process, "step 4/")
    process.send_signal(number)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    step = checkpoint.choose_step(tmp_path / "run")
    last = out.splitlines()[-1]
    assert last.startswith(f"step {step} is saved in {tmp_path / 'run'}")


def test_a_stop_before_the_first_step_is_done_is_at_once(config_file, tmp_path):
    """There is nothing to save then, and compiling may take minutes."""
    script = (
        "import pytest; from homae_jax import config_flags, train\n"
        "from tests import toy_training; import jax, time\n"
        "toy_training.install(pytest.MonkeyPatch())\n"
        "from homae_jax.training import parallel\n"
        "made = parallel.make_engine\n"
        "def slow(*_): print('compiling', flush=True); time.sleep(600)\n"
        "def make(*given): return made(*given)._replace(step=slow)\n"
        "parallel.make_engine = make\n"
        "config_flags.run(train.main, train.FLAGS)\n"
    )
    process = subprocess.Popen(
        [
            sys.executable, "-c", script, f"--config={config_file}",
            f"--workdir={tmp_path / 'run'}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )  # fmt: skip
    wait_for(process, "compiling")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.endswith("SIGTERM: stopped; no step was under way\n")
    assert not checkpoint.finished_steps(tmp_path / "run")


def test_a_second_training_in_a_folder_is_refused(config_file, tmp_path):
    process = start(config_file, tmp_path / "run", "--config.train.steps=100000")
    wait_for(process, "step 4/")
    second = start(config_file, tmp_path / "run")
    _, err = second.communicate(timeout=600)
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert f"a training runs here already (process {process.pid})" in err
    assert err.count("\n") == 1


def test_train_goes_on_with_another_engine_on_other_devices(
    monkeypatch, config_file, tmp_path
):
    toy_training.install(monkeypatch)
    train.train_and_evaluate(load(config_file, steps=10), tmp_path)
    process = start(config_file, tmp_path, "--config.parallel.engine=pmap", devices=4)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert int(final(tmp_path, load(config_file)).state.step) == 24


def run_train(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "homae_jax.train", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/common.py"], "no GPU found"),
        (["--config=configs/synthetic.py", "--config.data.rot=x"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    done = run_train(*arguments, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_missing_data_is_one_line(tmp_path):
    done = run_train(
        "--config=configs/common.py",
        "--allow_cpu",
        f"--workdir={tmp_path}",
        f"--config.data.root={tmp_path / 'nothing'}",
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'nothing'}: not found")
    assert done.stderr.count("\n") == 1


def test_signals_are_looked_after_until_what_a_run_holds_is_freed(
    monkeypatch, tmp_path, config_file
):
    """Else a Ctrl-C then is lost in a callback, with a traceback of that."""
    handlers = []

    class Held(SimpleNamespace):
        def __del__(self):
            handlers.append(signal.getsignal(signal.SIGINT))

    def held(*_):
        batches = SimpleNamespace(close=lambda: None)
        return Held(batches=batches, length=SimpleNamespace(num_steps=0))

    monkeypatch.setattr(train, "open_run", held)
    start = SimpleNamespace(step=0, params={})
    monkeypatch.setattr(train, "build_state_and_step", lambda run: (start, None))
    monkeypatch.setattr(train, "restore", lambda run, state, **_: state)
    monkeypatch.setattr(train, "run_steps", lambda run, state, *_: state)
    monkeypatch.setattr(train, "evaluate", lambda *_: {})
    monkeypatch.setattr(parallel, "make_engine", lambda *_: None)
    before = signal.getsignal(signal.SIGINT)
    train.train_and_evaluate(load(config_file), tmp_path)
    assert len(handlers) == 1 and handlers[0] != before
    assert signal.getsignal(signal.SIGINT) == before
