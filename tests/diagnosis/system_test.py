"""The doctor's findings: a GPU left idle, a cache that others may write, no data."""

import pytest

from configs import common
from homae_jax.data import dexycb_files
from homae_jax.diagnosis import system


def levels(findings):
    return [finding.level for finding in findings]


def test_check_all_finds_no_error_where_the_tests_run():
    findings = system.check_all()
    assert "error" not in levels(findings), system.format_findings(findings)
    assert len(findings) >= 6


def test_check_devices_calls_an_idle_gpu_an_error(monkeypatch):
    monkeypatch.setattr(system, "nvidia_gpus", lambda: ["GPU 0: NVIDIA Toy"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (finding,) = system.check_devices()
    assert finding.level == "error"
    assert "NVIDIA Toy" in finding.what and "JAX_PLATFORMS=cpu" in finding.advice


def test_nvidia_gpus_reads_what_the_driver_lists(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA Toy (UUID: GPU-1)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert system.nvidia_gpus() == ["GPU 0: NVIDIA Toy"]
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert system.nvidia_gpus() == []


def test_check_cache_refuses_a_folder_that_others_may_write(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "homae_jax" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "error" in levels(system.check_cache())
    folder.chmod(0o700)
    assert "error" not in levels(system.check_cache())


def test_check_shipped_sees_damage(monkeypatch, tmp_path):
    assert [f.level for f in system.check_shipped()] == ["ok"]
    monkeypatch.setattr("homae_jax.predictor.SHIPPED", tmp_path)
    (found,) = system.check_shipped()
    assert found.level == "error" and "--checkpoint" in found.advice


def test_check_packages_notes_an_extra_that_is_missing(monkeypatch):
    monkeypatch.setattr(system, "EXTRAS", {"no_such_package": "nothing works"})
    found = system.check_packages()[-1]
    assert found.level == "note" and "no_such_package is missing" in found.what


def test_check_packages_names_what_is_too_old(monkeypatch):
    monkeypatch.setitem(system.PACKAGES, "jax", "99.0")
    (finding,) = [f for f in system.check_packages() if f.level == "error"]
    assert "older than 99.0" in finding.what and "pip install" in finding.advice


@pytest.mark.parametrize("check", [system.check_mano, system.check_data])
def test_checks_of_a_configuration_say_what_to_set(check, tmp_path):
    config = common.get_config()
    config.data.root = str(tmp_path / "nowhere")
    findings = check(config)
    assert "error" in levels(findings)
    assert any("--config.data." in finding.advice for finding in findings)


def test_a_check_that_fails_is_a_finding():
    def check_nothing():
        raise OSError("boom")

    (finding,) = list(system._guarded(check_nothing))
    assert finding.level == "error" and "check_nothing failed" in finding.what


def test_format_findings_counts_errors():
    text = system.format_findings(
        [system.Finding("ok", "a"), system.Finding("error", "b", "do c")]
    )
    assert text.splitlines() == [
        "ok     a",
        "ERROR  b",
        "       -> do c",
        "2 checks, 1 errors",
    ]


def test_check_data_of_dexycb_counts_its_folders(tmp_path):
    config = common.get_config()
    config.data.dataset, config.data.root = "dexycb", str(tmp_path)
    config.data.train_split, config.data.eval_split = "s0_train", "s0_test"
    assert "0 subjects" in system.check_data(config)[-1].what
    for subject in dexycb_files.SUBJECTS:
        for number in range(100):
            (tmp_path / subject / f"20200709_1{number:05d}").mkdir(parents=True)
    found = system.check_data(config)[-1]
    assert found == system.Finding("ok", "DexYCB: 10 subjects, 1000 sequences")
    (tmp_path / subject / "20200709_100000").rmdir()
    assert "doctor data" in system.check_data(config)[-1].advice
