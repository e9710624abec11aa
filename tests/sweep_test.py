"""Sweeps and launchers, dry: commands, what is left to run, arrays, the one table."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("sweep", ROOT / "launch" / "sweep.py")
sweep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sweep)

CONFIG = "configs/ablations/table6.py"
RESULT = {
    "protocol": {
        "name": "hoisdf",
        "hand": "standard",
        "dataset": "ho3d",
        "ends_training": True,
    },
    "num_samples": 7,
    "excluded": {},
    "metrics": {"mje_mm": 21.8, "ome_mm": 39.3},
    "baselines": {},
    "per_object": {},
}


def finish(folder, mje=21.8, results="eval", **protocol):
    (folder / results).mkdir(parents=True)
    result = RESULT | {"metrics": RESULT["metrics"] | {"mje_mm": mje}}
    result["protocol"] = RESULT["protocol"] | protocol
    (folder / results / "ho3d_evaluation.json").write_text(json.dumps(result))
    (folder / results / "ho3d_evaluation_frames.json").write_text("{}")


def test_dry_run_prints_a_training_for_every_setting(tmp_path, capsys):
    finish(tmp_path / "patches_8")
    arguments = [f"--config={CONFIG}", f"--out={tmp_path}", "--dry_run"]
    assert sweep.main([*arguments, "--config.train.epochs=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("to run  patches_4: bash")
    assert f"--config={CONFIG}:patches_4" in lines[0]
    assert lines[0].endswith("--config.train.epochs=1")
    assert lines[1].startswith("done    patches_8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["patches_8"]


@pytest.mark.parametrize("flag", ["--dry_run", "--slurm"])
def test_a_setting_done_with_other_settings_is_said(tmp_path, capsys, flag):
    """It was called done, and its number stood for what was now asked."""
    finish(tmp_path / "patches_8")
    arguments = [f"--config={CONFIG}", f"--out={tmp_path}", "--settings=patches_8"]
    trained, asked = [
        sweep.make_jobs(CONFIG, tmp_path, rest, ["patches_8"])[0].config
        for rest in (["--config.train.epochs=1"], [])
    ]
    folder = tmp_path / "patches_8" / "checkpoints" / "7"
    folder.mkdir(parents=True)
    meta = {"format_version": 2, "data": {}, "config": trained.to_dict()}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert sweep.main([*arguments, flag, "--config.train.epochs=1"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert sweep.main([*arguments, flag, "--config.data.root=/elsewhere"]) == 0
    wanted = f"patches_8 was trained with train.epochs=1.0, not {asked.train.epochs};"
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(
    "how", [{"results": "eval/step_1000"}, {"ends_training": False}]
)
def test_a_setting_evaluated_before_its_end_is_not_done(tmp_path, capsys, how):
    """On the way by the training, or by somebody who looked at an interrupted one."""
    finish(tmp_path / "patches_8", **how)
    arguments = [f"--config={CONFIG}", f"--out={tmp_path}", "--settings=patches_8"]
    assert sweep.main([*arguments, "--dry_run"]) == 0
    assert capsys.readouterr().out.startswith("to run  patches_8")
    assert sweep.main([*arguments, "--collect"]) == 0
    assert capsys.readouterr().out == "no result yet: patches_8\n"


def test_a_setting_named_twice_is_one_job(tmp_path, capsys):
    arguments = [f"--config={CONFIG}", f"--out={tmp_path}", "--dry_run"]
    assert sweep.main([*arguments, "--settings=patches_8,patches_8"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_slurm_array_holds_what_is_left(tmp_path, capsys):
    finish(tmp_path / "patches_4")
    arguments = [f"--config={CONFIG}", f"--out={tmp_path}", "--dry_run", "--slurm"]
    assert sweep.main([*arguments, "--sbatch=--gpus=1,--time=9:00:00"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-2" in script and "#SBATCH --time=9:00:00" in script
    assert "patches_4" not in script and "table6.py:patches_16" in script
    check = subprocess.run(["bash", "-n"], input=script.encode(), check=False)
    assert check.returncode == 0


def test_run_here_runs_each_once_and_collects(tmp_path, monkeypatch, capsys):
    """Two jobs on two GPUs, one of which fails: the other's result is in the table."""
    good = f"mkdir -p {tmp_path}/a/eval; cp {tmp_path}/r.json {tmp_path}/a/eval/x.json"
    (tmp_path / "r.json").write_text(json.dumps(RESULT))
    jobs = [
        sweep.Job("a", tmp_path / "a", ["bash", "-c", good]),
        sweep.Job(
            "b", tmp_path / "b", ["bash", "-c", "echo $CUDA_VISIBLE_DEVICES; exit 3"]
        ),
    ]
    monkeypatch.setattr(sweep, "make_jobs", lambda *_: jobs)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.01)
    status = sweep.main(["--config=x.py", f"--out={tmp_path}", "--gpus=0,1"])
    printed = capsys.readouterr().out
    assert status == 1 and "failed: b" in printed and "no result yet: b" in printed
    assert "finished: a in 0s" in printed and "; 0 left, 0s" in printed
    assert (tmp_path / "b" / "log.txt").read_text() == "1\n"
    assert "| a | 21.8 |" in (tmp_path / "results.md").read_text()


PROGRAM = """
import importlib.util
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells' "&" ignores it
spec = importlib.util.spec_from_file_location("sweep", sys.argv[1])
sweep = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sweep)
folder = Path(sys.argv[2])
script = f"trap 'echo saved >> {folder}/saved; exit 130' TERM; touch {folder}/up; "
command = ["bash", "-c", script + "while true; do sleep 0.05; done"]
sweep.make_jobs = lambda *_: [sweep.Job("a", folder / "a", command)]
sys.exit(sweep.main(["--config=x.py", f"--out={folder}"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_each_training_once(tmp_path, number):
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "launch/sweep.py")]
    process = subprocess.Popen(
        [*command, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "up").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert error == "interrupted; the same command goes on from here\n"
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_collect_orders_settings_as_the_sweep_does(tmp_path, capsys):
    for name, mje in (("patches_16", 22.4), ("patches_4", 22.6)):
        finish(tmp_path / name, mje)
    assert sweep.main([f"--config={CONFIG}", f"--out={tmp_path}", "--collect"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("22.6") < printed.index("22.4")
    assert "no result yet: patches_8, patches_12" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/nowhere.py"], "no such file"),
        (["--config=configs/common.py"], "defines no sweep()"),
        ([f"--config={CONFIG}", "--settings=patches_5"], "no setting patches_5"),
        (
            [f"--config={CONFIG}", "--config.data.rot=3"],
            "did you mean --config.data.ro",
        ),
        ([f"--config={CONFIG}", "--config.train.steps=few"], "wants a whole number"),
        ([f"--config={CONFIG}", "--alow_cpu"], "flag 'alow_cpu'. Did you mean"),
        (["--gpus=0"], "--config=... is missing"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert sweep.main([*arguments, "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def sweep():\n    return {'a': 1 / 0}\n", ":2: ZeroDivisionError: division"),
        ("def sweep(:\n", ":1: invalid syntax"),
        ("def sweep():\n    return None\n", "its sweep() gives no settings"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_place(
    tmp_path, text, message, capsys
):
    (tmp_path / "mine.py").write_text(text)
    assert sweep.main([f"--config={tmp_path / 'mine.py'}", "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_paths_of_a_sweep_are_those_of_the_callers_folder(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    finish(tmp_path / "mine" / "patches_8")
    assert sweep.main([f"--config={CONFIG}", "--out=mine", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--workdir=mine/patches_4" in lines[0] and lines[1].startswith("done")
    arguments = [f"--config={CONFIG}", "--slurm", "--dry_run", "--settings=patches_8"]
    assert sweep.main([*arguments, "--config.data.root=mine"]) == 0
    script = capsys.readouterr().out
    assert f"\ncd {tmp_path}\n" in script
    assert "--workdir=runs/table6/patches_8 --config.data.root=mine\n" in script


def test_multi_gpu_names_its_gpus_and_dry_runs():
    def run(*arguments):
        script = ["bash", str(ROOT / "launch" / "multi_gpu.sh"), *arguments]
        environment = {"DRY_RUN": "1", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            script, env=environment, capture_output=True, text=True, check=False
        )

    done = run("0,2", "--config=c.py")
    assert done.stdout.startswith("CUDA_VISIBLE_DEVICES=0,2 bash")
    assert done.stdout.endswith("train.sh --config=c.py\n")
    assert run("all").stdout.startswith("CUDA_VISIBLE_DEVICES=all")
    assert run("--config=c.py").returncode == 2


def test_slurm_script_dry_runs_without_an_environment(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "slurm.sh"), "--config=configs/ho3d.py"],
        env={
            "DRY_RUN": "1",
            "PATH": "/usr/bin:/bin",
            "SLURM_SUBMIT_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = "-m homae_jax.train --distributed --config=configs/ho3d.py\n"
    assert (
        done.stdout == f"srun --cpus-per-task=16 .venv/bin/python {wanted}"
        and not done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_sweep_help_has_examples():
    command = [sys.executable, str(ROOT / "launch" / "sweep.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--slurm" in done.stdout
