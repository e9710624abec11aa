"""metrics.jsonl, TensorBoard and the console."""

import contextlib
import json
import sys
import types

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from homae_jax.errors import UserError
from homae_jax.training.writers import MetricWriter, WandbRun, _drop_later

VALUES = {
    "loss": 1.5,
    "steps_per_second": 2.0,
    "images_per_second": 48.0,
    "data_wait_share": 0.02,
}


def read_lines(workdir) -> list[dict]:
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def make_writer(workdir, first_step=0, num_steps=1000) -> MetricWriter:
    return MetricWriter(workdir, first_step=first_step, num_steps=num_steps)


def test_scalars_are_one_json_object_a_line(tmp_path):
    writer = make_writer(tmp_path)
    writer.scalars(50, VALUES)
    writer.scalars(100, VALUES | {"loss": float("nan")})
    writer.close()
    first, second = read_lines(tmp_path)
    assert first == {"step": 50, **VALUES}
    assert second["loss"] is None


def test_scalars_print_the_time_left(tmp_path, capsys):
    writer = make_writer(tmp_path)
    writer.scalars(400, VALUES)
    writer.scalars(410, VALUES | {"num_skipped": 2})
    writer.close()
    first, second = capsys.readouterr().out.splitlines()
    expected = "step 400/1000  loss 1.5  48 images/s  data 2 %  5m00s left"
    assert first == expected
    assert "skipped 2" in second


def test_writer_goes_on_from_a_step_without_repeating_lines(tmp_path):
    writer = make_writer(tmp_path)
    for step in (10, 20, 30):
        writer.record(step, VALUES)
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # the process was killed here
    writer = make_writer(tmp_path, first_step=20)
    writer.record(30, VALUES)
    writer.close()
    assert [row["step"] for row in read_lines(tmp_path)] == [10, 20, 30]


def test_images_reach_tensorboard(tmp_path):
    writer = make_writer(tmp_path)
    writer.images(7, {"reconstruction": np.zeros((4, 6, 3), np.uint8)})
    writer.record(7, {"loss": 2.0})
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    content = file.read_bytes()
    while content:  # a record: length, its checksum, data, its checksum
        size = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        found |= {value.tag: (event.step, value) for value in event.summary.value}
        content = content[16 + size :]
    step, image = found["reconstruction"]
    assert (step, image.image.height, image.image.width) == (7, 4, 6)
    assert found["loss"][1].simple_value == 2.0


def test_a_full_disk_costs_lines_and_one_warning_each(tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = make_writer(tmp_path)
    monkeypatch.setattr(EventsWriter, "write_event", fail)
    for step in range(100):  # more than any queue holds
        writer.scalars(step, VALUES)
        writer.images(step, {"a": np.zeros((4, 6, 3), np.uint8)})
    writer.close()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all("cannot be written (No space left on device)" in w for w in warnings)


def test_lines_come_back_when_there_is_room_again(tmp_path, monkeypatch):
    writer = make_writer(tmp_path)
    writer.record(1, {"loss": 1.0})
    good, full = writer._file, open("/dev/full", "a")  # noqa: SIM115
    writer._file = full
    writer.record(2, {"loss": 2.0})
    writer._file = good
    with contextlib.suppress(OSError):  # it still holds the line
        full.close()
    writer.record(3, {"loss": 3.0})
    writer.close()
    assert [row["step"] for row in read_lines(tmp_path)] == [1, 3]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(UserError, match="tensorboard: cannot be written"):
        make_writer(tmp_path)


class ToyWandb(types.ModuleType):
    """Notes what it is given; `log` fails from a step on."""

    def __init__(self, fails_from=1000):
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace()
        self.started, self.logged, self.ended = [], [], 0
        self._fails_from = fails_from

    def init(self, **keywords):
        self.started.append(keywords)
        return self

    def Image(self, picture):
        return picture.shape

    def log(self, values, *, step):
        if step >= self._fails_from:
            raise ConnectionError("no network\nand more")
        self.logged.append((step, values))

    def finish(self):
        self.ended += 1


def open_wandb(workdir):
    return WandbRun("hands", name="toy", workdir=workdir, config={"seed": 0})


def test_wandb_takes_values_and_pictures_and_goes_on_with_the_same_run(
    tmp_path, monkeypatch
):
    module = ToyWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for step in (50, 100):
        writer = MetricWriter(
            tmp_path, first_step=step - 50, num_steps=100, wandb=open_wandb(tmp_path)
        )
        writer.record(step, {"loss": 1.5, "rec": float("nan")})
        writer.images(step, {"sdf": np.zeros((4, 6, 3), np.uint8)})
        writer.close()
    assert module.logged == [
        (50, {"step": 50, "loss": 1.5}),
        (50, {"sdf": (4, 6, 3)}),
        (100, {"step": 100, "loss": 1.5}),
        (100, {"sdf": (4, 6, 3)}),
    ]
    first, second = module.started
    assert first == second and first["resume"] == "allow" and module.ended == 2
    assert first["project"] == "hands" and first["config"] == {"seed": 0}


def test_wandb_that_fails_or_is_missing_costs_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", ToyWandb(fails_from=50))
    run = open_wandb(tmp_path)
    for step in (10, 50, 60):
        run.scalars(step, {"loss": 1.0})
    run.close()
    error = capsys.readouterr().err
    assert error == "warning: wandb: no network; the run goes on without it\n"

    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = open_wandb(tmp_path)
    run.scalars(10, {"loss": 1.0})
    run.close()
    error = capsys.readouterr().err
    assert "pip install wandb" in error and error.count("\n") == 1


def test_a_damaged_log_does_not_stop_a_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, \xff\xfe\n')
    _drop_later(path, 5)
    assert path.read_text() == '{"step": 1}\n'
