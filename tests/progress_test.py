"""What long work says of itself: on a terminal, and in a pipe."""

import io

import pytest

from homae_jax import progress


@pytest.fixture
def work(monkeypatch):
    """Works at `num` items for some seconds each; returns what was said."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def run(*, num, seconds, is_terminal):
        out = io.StringIO()
        out.isatty = lambda: is_terminal
        monkeypatch.setattr("sys.stderr", out)
        for _ in progress.progress_bar(range(num), total=num, desc="x"):
            now[0] += seconds
        return out.getvalue()

    return run


def test_terminal_redraws_one_line_with_the_time_left(work):
    text = work(num=100, seconds=3.0, is_terminal=True)
    assert text.count("\n") == 1 and text.endswith("\n")
    frames = text.strip().split("\r")
    assert "50/100, 2m30s left" in frames[49]
    assert "100/100, 0s left" in frames[-1] and "\x1b" not in text


def test_pipe_gets_a_line_for_a_tenth(work):
    lines = work(num=200, seconds=3.0, is_terminal=False).splitlines()
    assert 10 <= len(lines) <= 11
    assert lines[-1] == "x: 200/200, 0s left"
    assert "x: 100/200, 5m00s left" in lines


def test_time_left_forgets_the_first_item_which_compiles(monkeypatch):
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr", out)
    for item in progress.progress_bar(range(10), total=10, desc="x"):
        now[0] += 10.0 if item else 300.0
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["x: 1/10, 45m00s left", "x: 2/10, 1m20s left"]


def test_pipe_hears_nothing_of_short_work(work):
    assert work(num=50, seconds=0.05, is_terminal=False) == ""


def test_pipe_hears_seldom_of_work_of_a_minute(work):
    assert len(work(num=20, seconds=1.0, is_terminal=False).splitlines()) <= 4


@pytest.mark.parametrize(("is_terminal", "said"), [(True, "wait\n"), (False, "")])
def test_notice_speaks_on_terminals_only(monkeypatch, is_terminal, said):
    out = io.StringIO()
    out.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stderr", out)
    progress.notice("wait")
    assert out.getvalue() == said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (185.0, "3m05s"), (3720.0, "1h02m")],
)
def test_format_seconds(seconds, text):
    assert progress.format_seconds(seconds) == text
