"""The benchmark entry point: its sections, what they report, what it refuses."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from homae_jax import benchmark, config_flags
from homae_jax.benchmarks import _measure, memory, startup

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {
    *_measure.Measurement._fields,
    *("section", "per_second", "flops_per_s", "share_of_ceiling"),
}
CEILING = ["matrix product", "matrix product", "copy"]


@pytest.fixture(autouse=True)
def small_ceiling(monkeypatch):
    monkeypatch.setattr(_measure, "CEILING_SIDES", (32, 64))
    monkeypatch.setattr(_measure, "CPU_COPY_BYTES", 2**20)


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
    known = {"data", "mano", "metrics", "predict", "targets", "train"}
    assert known | {"encoder", "memory", "samplers", "startup"} == set(
        benchmark.sections()
    )
    assert not any(name.startswith("_") for name in benchmark.sections())


def test_main_prints_and_writes_the_same_numbers(tmp_path, capsys):
    path = tmp_path / "mano.json"
    options = ("--batch", "1", "--repeats", "2", "--json", str(path))
    status, out, _ = run(capsys, "mano", *options)
    assert status == 0
    report = json.loads(path.read_text())
    assert report["section"] == "mano" and "cpu" in report["device"]
    names = [r["name"] for r in report["results"]]
    assert names == [*CEILING, "MANO forward", "MANO gradient"]
    for ceiling in ("float32_gflop", "bfloat16_gflop", "gb"):
        assert report[f"ceiling_{ceiling}_per_s"] > 0
    for result in report["results"]:
        assert set(result) == FIELDS and result["repeats"] == 2
        assert result["first_s"] > result["median_s"] > 0
        assert f"{result['name']}  [{result['shapes']}]" in out


def test_main_prints_json_alone_when_asked(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "_import", lambda name: fake_section())
    status, out, _ = run(capsys, "mano", "--json", "-")
    assert status == 0
    names = [result["name"] for result in json.loads(out)["results"]]
    assert names == CEILING


def test_all_runs_every_section_with_its_defaults(capsys, monkeypatch):
    seen = {}

    def section(name):
        def add(parser):
            parser.add_argument("--config", dest="config_file", default=f"{name}.py")
            config_flags.add_overrides(parser)
            parser.add_argument("--only-here", default=name)

        module = fake_section(add=add)
        module.run = lambda options: seen.update({name: options}) or iter(())
        return module

    monkeypatch.setattr(benchmark, "_import", section)
    status, _, _ = run(capsys, "all", "--repeats", "2", "--json", "-")
    assert status == 0
    assert list(seen) == list(benchmark.sections())
    for name, options in seen.items():
        assert options.config_file == f"{name}.py" and options.only_here == name
        assert options.repeats == 2
    given = ("--config", "mine.py", "--set", "a=1", "b", "--config.c=2", "--json", "-")
    run(capsys, "all", *given)
    assert {options.config_file for options in seen.values()} == {"mine.py"}
    for options in seen.values():
        assert list(map(str, options.overrides)) == [
            *("--config.a=1", "--config.b", "--config.c=2")
        ]


def test_stdout_is_left_to_the_numbers(capsys, monkeypatch):
    def prepare(options):
        print("made a world")

    section = fake_section(add=lambda parser: parser.set_defaults(prepare=prepare))
    monkeypatch.setattr(benchmark, "_import", lambda name: section)
    status, out, err = run(capsys, "data", "--json", "-")
    assert status == 0 and err == "made a world\n"
    assert json.loads(out)["section"] == "data"


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    section = fake_section()
    section.run = interrupt
    monkeypatch.setattr(benchmark, "_import", lambda name: section)
    assert run(capsys, "metrics", "--json", "-") == (130, "", "interrupted\n")


@pytest.mark.parametrize("given", [None, "true"])
def test_sections_that_start_processes_leave_them_the_card(capsys, monkeypatch, given):
    if given:
        monkeypatch.setenv(benchmark.PREALLOCATE, given)
    else:
        monkeypatch.delenv(benchmark.PREALLOCATE, raising=False)
    seen, sections = [], {}
    for name in benchmark.sections():
        module = sections[name] = fake_section()
        module.STARTS_PROCESSES = name == "startup"
        module.run = lambda options, name=name: seen.append((name, held())) or iter(())

    def held():
        return os.environ.get(benchmark.PREALLOCATE)

    def ceiling(*, repeats):
        seen.append(("ceiling", held()))
        return products(repeats=repeats)

    products = _measure.ceiling
    monkeypatch.setattr(_measure, "ceiling", ceiling)
    monkeypatch.setattr(benchmark, "_import", sections.get)
    keep = lambda: seen.append(("device", held()))  # noqa: E731
    monkeypatch.setattr(benchmark.runtime, "keep_memory", keep)
    assert run(capsys, "all", "--json", "-")[0] == 0
    first = [("device", "false"), ("startup", given), ("ceiling", given)]
    assert seen[:3] == first
    seen.clear()
    assert run(capsys, "mano", "--json", "-")[0] == 0
    assert seen[0] == ("device", given)


def test_startup_and_memory_say_that_they_start_processes():
    assert memory.STARTS_PROCESSES and startup.STARTS_PROCESSES


def test_measure_counts_what_is_compiled():
    x = jnp.ones((32, 32))
    result = _measure.measure(
        jax.jit(lambda x: x @ x), x, name="", shapes="", count=1, repeats=1
    )
    assert result.flops == result.matrix_flops == 2 * 32**3
    assert result.planned_bytes >= 2 * x.nbytes
    assert result.flops_per_s == pytest.approx(2 * 32**3 / result.fastest_s)


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
        (("mano", "--json", "nowhere/x.json"), "no folder nowhere"),
        (("mano", "--json", "tests"), "--json=tests: is a folder"),
        (("mano", "--peer", "nowhere"), "--peer: 'nowhere' is no program"),
        (("all", "--peer", "nowhere"), "--peer: 'nowhere' is no program"),
        (("encoder", "--variant", "vits15"), "--variant: invalid choice: 'vits15'"),
        (("mano", "--mano", "nowhere.pkl"), "nowhere.pkl: cannot be read"),
        (("predict", "--config", "nowhere.py"), "nowhere.py: no such file"),
        (("mano", "--batch", "many"), "--batch: 'many': wants a whole number"),
        (("train", "--bogus"), "unrecognized arguments: --bogus"),
        (("data", "--set", "data.roots=x"), "--config.data.roots=x: no such key"),
        (("data", "--set", "data.threads"), "write --config.data.threads=VALUE"),
        (("startup", "--config.data.roots=x"), "--config.data.roots=x: no such key"),
        (("samplers", "--config.data.roots=x"), "--config.data.roots=x: no such key"),
        (("memory", "--config.data.threads", "x"), "wants a whole number"),
        (("train", "--set", "data.dataset=ho3d", "data.root=nowhere"), "nowhere"),
        (("all", "--config.data.dataset=ho3d", "--config.data.root=nowhere"), "no"),
        (("metrics", "--config.data.root=x"), "metrics has no configuration"),
    ],
)
def test_main_refuses_in_one_line_before_it_measures(
    capsys, monkeypatch, arguments, text
):
    monkeypatch.delattr(_measure, "ceiling")
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and text in err


def test_metrics_section_scores_every_sample(capsys, tmp_path):
    path = tmp_path / "metrics.json"
    options = ("--samples", "5", "--batch", "2", "--repeats", "1")
    status, _, _ = run(capsys, "metrics", *options, "--json", str(path))
    assert status == 0
    *parts, whole = json.loads(path.read_text())["results"][len(CEILING) :]
    assert [part["count"] for part in parts] == [2] * 4
    assert whole["count"] == 5 and "3 batches" in whole["note"]
    assert "778 vertices" in whole["shapes"]


def test_ceiling_is_arithmetic_and_bytes_over_time():
    *products, copy = _measure.ceiling(repeats=3)
    assert [product.bfloat16_flops for product in products] == [0, 2 * 64**3]
    for product in products:
        rate = 2 * 64**3 / product.fastest_s / 1e9
        assert product.note == f"{rate:.0f} GFLOP/s"
    rate = 2 * 2**20 / copy.fastest_s / 1e9
    assert copy.note == f"{rate:.1f} GB/s read and written"


def test_ceiling_grows_until_a_call_takes_long_enough(monkeypatch):
    monkeypatch.setattr(_measure, "CEILING_S", 0.0)
    *products, _ = _measure.ceiling(repeats=1)
    assert [product.flops for product in products] == [2 * 32**3] * 2


@pytest.mark.parametrize(
    ("peak_of", "share"), [("process", (4 / 8 + 2 / 4) / 5), ("device", 4 / 8 + 2 / 4)]
)
def test_share_of_ceiling_takes_each_product_in_its_dtype(peak_of, share):
    def measured(flops, processor_s, bfloat16=0):
        blank = dict.fromkeys(_measure.Measurement._fields, 0)
        return _measure.Measurement(**blank)._replace(
            flops=flops,
            bfloat16_flops=bfloat16,
            fastest_s=10,
            fastest_processor_s=processor_s,
            peak_of=peak_of,
        )

    products = {"float32": measured(4, 1), "bfloat16": measured(8, 1)}
    result = measured(6, 5, bfloat16=4)
    assert _measure.share_of_ceiling(result, products) == pytest.approx(share)


@pytest.mark.slow
def test_all_metrics_of_10000_samples_take_less_than_a_minute(tmp_path):
    """In a process of its own, whose memory nothing else has taken."""
    path = tmp_path / "metrics.json"
    command = [sys.executable, "-m", "homae_jax.benchmark", "metrics", "--repeats=1"]
    subprocess.run([*command, f"--json={path}"], check=True, cwd=ROOT)
    whole = json.loads(path.read_text())["results"][-1]
    taken = f"{whole['median_s']:.1f} s, {whole['processor_s']:.1f} s of processors"
    print(f"\n{taken}, {whole['peak_bytes'] / 1e6:.0f} MB")
    # Processor time: other programs on the machine cannot add to it.
    assert whole["processor_s"] < 60
    assert whole["peak_bytes"] < 1.5e9
