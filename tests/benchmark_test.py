"""The benchmark entry point: its sections, what they report, what it refuses."""

import json
import time
import types

import jax
import jax.numpy as jnp
import pytest

from homae_jax import benchmark
from homae_jax.benchmarks import _measure

FIELDS = {*_measure.Measurement._fields, "per_second"}


def run(capsys, *arguments):
    status = benchmark.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fake_section(results=(), add=lambda parser: None):
    module = types.ModuleType("fake")
    module.__doc__ = "Nothing."
    module.add_arguments = add
    module.run = lambda options: iter(results)
    return module


def test_measure_takes_the_median_of_the_calls_after_the_first():
    waits = iter([0.3, 0.02, 0.12, 0.04])

    def wait(value):
        time.sleep(next(waits))
        return value

    result = _measure.measure(
        wait, jnp.zeros(2), name="wait", shapes="2", count=2, repeats=3
    )
    assert result.first_s >= 0.3
    assert 0.04 <= result.median_s <= result.slowest_s
    assert 0.02 <= result.fastest_s <= result.median_s
    assert result.per_second == pytest.approx(2 / result.median_s)


def test_measure_reports_memory_that_the_process_took():
    before, whose = _measure.peak_memory()
    held = jax.block_until_ready(jnp.ones((64, 2**20)))  # 256 MB
    after, _ = _measure.peak_memory()
    assert whose in ("device", "process")
    assert held.nbytes == 2**28
    assert after >= max(before, 2**28)


def test_sections_are_the_modules_of_the_folder():
    assert {"data", "mano", "metrics", "predict", "train"} == set(benchmark.sections())
    assert not any(name.startswith("_") for name in benchmark.sections())


def test_main_prints_and_writes_the_same_numbers(tmp_path, capsys):
    path = tmp_path / "mano.json"
    options = ("--batch", "1", "--repeats", "2", "--json", str(path))
    status, out, _ = run(capsys, "mano", *options)
    assert status == 0
    report = json.loads(path.read_text())
    assert report["section"] == "mano" and "cpu" in report["device"]
    assert [r["name"] for r in report["results"]] == ["MANO forward", "MANO gradient"]
    for result in report["results"]:
        assert set(result) == FIELDS and result["repeats"] == 2
        assert result["first_s"] > result["median_s"] > 0
        assert f"{result['name']}  [{result['shapes']}]" in out


def test_main_prints_json_alone_when_asked(capsys, monkeypatch):
    monkeypatch.setattr(benchmark.importlib, "import_module", lambda _: fake_section())
    status, out, _ = run(capsys, "mano", "--json", "-")
    assert status == 0
    assert json.loads(out)["results"] == []


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_main_names_its_sections(capsys, arguments):
    status, out, _ = run(capsys, *arguments)
    assert status == (0 if arguments else 2)
    assert "mano" in out and "metrics" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nothing",), 'no section "nothing": use one of'),
        (("mano", "--repeats", "0"), "--repeats=0: must be 1 or more"),
        (("mano", "--batch", "4", "0"), "--batch=[4, 0]: must be 1 or more"),
        (("mano", "--json", "nowhere/x.json"), "no such folder"),
        (("mano", "--mano", "nowhere.pkl"), "nowhere.pkl: cannot be read"),
        (("predict", "--config", "nowhere.py"), "nowhere.py: no such file"),
        (("data", "--set", "data.roots=x"), "roots"),
        (("train", "--set", "data.dataset=ho3d", "data.root=nowhere"), "nowhere"),
    ],
)
def test_main_refuses_in_one_line(capsys, arguments, text):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and text in err


def test_metrics_section_scores_every_sample(capsys, tmp_path):
    path = tmp_path / "metrics.json"
    options = ("--samples", "5", "--batch", "2", "--repeats", "1")
    status, _, _ = run(capsys, "metrics", *options, "--json", str(path))
    assert status == 0
    *parts, whole = json.loads(path.read_text())["results"]
    assert [part["count"] for part in parts] == [2] * 4
    assert whole["count"] == 5 and "3 batches" in whole["note"]
    assert "778 vertices" in whole["shapes"]


def test_ceiling_is_arithmetic_and_bytes_over_time(monkeypatch):
    monkeypatch.setattr(_measure, "CEILING_SIDE", 64)
    product, copy = _measure.ceiling(repeats=3)
    rate = 2 * 64**3 / product.median_s / 1e9
    assert product.note == f"{rate:.0f} GFLOP/s"
    assert (
        copy.note == f"{2 * 4 * 64**2 / copy.median_s / 1e9:.1f} GB/s read and written"
    )


@pytest.mark.slow
def test_all_metrics_of_10000_samples_take_less_than_a_minute(capsys, tmp_path):
    path = tmp_path / "metrics.json"
    run(capsys, "metrics", "--repeats", "1", "--json", str(path))
    whole = json.loads(path.read_text())["results"][-1]
    taken = f"{whole['median_s']:.1f} s, {whole['processor_s']:.1f} s of processors"
    print(f"\n{taken}, {whole['peak_bytes'] / 1e6:.0f} MB")
    # Processor time: other programs on the machine cannot add to it.
    assert whole["processor_s"] < 60
    assert whole["peak_bytes"] < 1.5e9
