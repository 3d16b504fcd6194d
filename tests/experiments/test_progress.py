import io

import pytest

from experiments import progress as module
from experiments.progress import Lines, Silent, Terminal, clock, progress


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0:00"), (21.4, "0:21"), (725, "12:05"), (3723, "1:02:03"), (-3, "0:00")]
)
def test_time_left_is_told_as_a_clock(seconds: float, told: str) -> None:
    assert clock(seconds) == told


def test_a_log_gets_lines_now_and_then_and_a_few_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = Lines(out=out)
    lines.begin(cells=4, samples=100, cells_done=1, samples_done=20)
    for i in range(40):
        now[0] += 1
        lines.advance(1)
        lines.failed(f"q{i}", "the picture is gone.")
    told = out.getvalue().splitlines()
    assert told[0] == "plan         4 cells, 100 samples, 20 of them there already"
    assert told[1] == "sample q0: the picture is gone. Sample marked failed; 1 of 100 so far."
    assert [line for line in told if line.startswith("running")] == [
        "running      35/100 samples   1/4 cells   1 samples/s   1:05 left",
        "running      50/100 samples   1/4 cells   1 samples/s   0:50 left",
    ]
    assert sum(line.startswith("sample ") for line in told) == 5
    assert "further failed samples are counted, and recorded with their reasons." in told


def test_the_rate_forgets_a_slow_start_and_is_not_told_before_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    told = Silent()
    told.begin(cells=1, samples=1000, cells_done=0, samples_done=0)
    now[0] = 100.0
    told.advance(1)
    assert told.told() == "0/1 cells   starting"
    for _ in range(40):
        now[0] += 1
        told.advance(10)
    assert told.told() == "0/1 cells   10 samples/s   1:00 left"


def test_a_terminal_gets_a_bar_and_whole_lines_above_it() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Screen()
    bar = progress(out=out)
    assert isinstance(bar, Terminal)
    bar.begin(cells=2, samples=10, cells_done=0, samples_done=0)
    assert bar.bar is not None
    bar.doing("loading the model")
    bar.bar.refresh()
    bar.advance(5)
    bar.failed("q[1]", "no [bold] picture")
    bar.cell_finished()
    bar.end()
    assert "0/2 cells   loading the model" in out.getvalue()
    assert "sample q[1]: no [bold] picture. Sample marked failed; 1 of 10 so far." in out.getvalue()


def test_quiet_says_nothing_and_a_file_gets_lines() -> None:
    assert type(progress(quiet=True)) is Silent
    assert type(progress(out=io.StringIO())) is Lines


def test_a_rate_is_told_where_a_batch_takes_longer_than_the_rate_looks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    told = Silent()
    told.begin(cells=1, samples=400, cells_done=0, samples_done=0)
    for _ in range(5):
        now[0] += 100
        for _ in range(40):
            told.advance(1)
    assert 0.3 < told.rate < 0.9
    assert told.left != "-"
