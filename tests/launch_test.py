"""The launch scripts: they parse, choose wheels by the driver, and need Python 3.11."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted(ROOT.glob("launch/*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_script_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def run_function(name, path):
    """One function of setup.sh, without running its installation."""
    text = (ROOT / "launch" / "setup.sh").read_text()
    text = text.removesuffix('(cd "$ROOT"; install)\n')
    copy = path / "setup.sh"
    copy.write_text(text)
    script = f'source {copy}; cd "{ROOT}"; {name}'
    env = {**os.environ, "PATH": f"{path}:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=env, check=False
    )


def fake(folder, name, status):
    file = folder / name
    file.write_text(f"#!/bin/sh\nexit {status}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(("status", "has_cuda"), [(0, True), (9, False)])
def test_requirements_ask_for_cuda_only_where_a_driver_answers(
    tmp_path, status, has_cuda
):
    fake(tmp_path, "nvidia-smi", status)
    done = run_function("requirements", tmp_path)
    assert ("jax[cuda12]" in done.stdout) == has_cuda
    assert "flax" in done.stdout and "\njax" in done.stdout


def test_find_python_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("HOMAE_PYTHON", raising=False)
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        fake(tmp_path, name, 1)
    done = run_function("find_python", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Python >= 3.11 found")


def test_find_python_takes_the_one_asked_for_or_none(tmp_path, monkeypatch):
    fake(tmp_path, "old", 1)
    monkeypatch.setenv("HOMAE_PYTHON", str(tmp_path / "old"))
    done = run_function("find_python", tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr == f"error: HOMAE_PYTHON={tmp_path / 'old'} is no Python >= 3.11\n"
    )
    fake(tmp_path, "new", 0)
    monkeypatch.setenv("HOMAE_PYTHON", str(tmp_path / "new"))
    assert run_function("find_python", tmp_path).stdout == f"{tmp_path / 'new'}\n"


@pytest.mark.parametrize("has_ensurepip", [True, False])
def test_setup_mends_an_environment_without_pip_or_says_what_to_do(
    tmp_path, monkeypatch, has_ensurepip
):
    """An interrupted start leaves one; each later start died of it."""
    monkeypatch.setenv("HAS_ENSUREPIP", "yes" if has_ensurepip else "")
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "setup.sh", tmp_path / "launch")
    (tmp_path / "requirements.txt").write_text("jax\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\n"
        'echo "$2" >> calls\n'
        '[ "$2" = ensurepip ] && [ -n "$HAS_ENSUREPIP" ] && touch mended\n'
        "[ -f mended ]\n"
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "launch/setup.sh"], cwd=tmp_path, capture_output=True, text=True
    )
    calls = (tmp_path / "calls").read_text().split()
    if has_ensurepip:
        assert done.returncode == 0, done.stderr
        assert calls == ["pip", "ensurepip", "pip"]
    else:
        assert done.returncode == 2
        assert done.stderr.startswith("error: .venv has no pip: install")
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not shutil.which("flock"), reason="has no flock")
def test_of_two_setups_at_once_one_installs(tmp_path):
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "setup.sh", tmp_path / "launch")
    (tmp_path / "requirements.txt").write_text("jax\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$2 $3" >> calls\nsleep 0.5\n')
    python.chmod(0o755)
    command = ["bash", "launch/setup.sh"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said == [
        "installing requirements\n",
        "waiting for another start, which installs\n",
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["pip --version", "pip install"]


def test_the_callers_folder_and_its_relative_paths_stay(tmp_path):
    """--config.data.root=mine was looked for in the repository."""
    repo, here = tmp_path / "repo", tmp_path / "here"
    shutil.copytree(ROOT / "launch", repo / "launch")
    (repo / "requirements.txt").write_text("jax\n")
    python = repo / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$2" = pip ] || echo "$PWD $PYTHONPATH $@"\n')
    python.chmod(0o755)
    here.mkdir()
    env = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    done = subprocess.run(
        ["bash", repo / "launch" / "train.sh", "--workdir=mine"],
        **{"cwd": here, "capture_output": True, "text": True, "env": env},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    assert said == f"{here} {repo} -m homae_jax.train --workdir=mine"


@pytest.mark.parametrize("given", ["", "glibc.malloc.check=3"])
def test_setup_asks_for_large_pages_and_keeps_what_is_set(tmp_path, monkeypatch, given):
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    done = run_function("printenv GLIBC_TUNABLES", tmp_path)
    assert done.stdout == f"{given or 'glibc.malloc.hugetlb=1'}\n"
