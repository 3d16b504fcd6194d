import io
import time

import pytest

from experiments.terminal import progress as module
from experiments.terminal.progress import BarProgress, LineProgress, SilentProgress, format_duration, make_progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (21.4, "0:21"), (725, "12:05"), (3723, "1:02:03"), (-3, "0:00")]
)
def test_time_left_is_printed_as_a_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_log_has_a_line_per_interval_and_one_per_kind_of_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = LineProgress(out=out)
    lines.begin(cells=4, samples=100, cells_done=1, samples_done=20)
    for i in range(40):
        now[0] += 1
        lines.advance(1)
        lines.failed(f"q{i}", f"the image '{i}.png' is gone.")
    lines.end()
    output = out.getvalue().splitlines()
    assert output[0] == "plan         4 cells, 100 samples, 20 of them there already"
    assert output[1] == "sample q0: the image '0.png' is gone. Sample marked failed; 1 of 100 so far."
    assert [line for line in output if line.startswith("running")] == [
        "running      35/100 samples   1.0 samples/s   1:05 left",
        "running      50/100 samples   1.0 samples/s   0:50 left",
    ]
    assert sum(line.startswith("sample ") for line in output) == 1
    assert output[-1] == "failed       40 samples, first q0: the image '0.png' is gone."


def test_a_log_has_the_first_sample_of_a_few_kinds_of_failure() -> None:
    out = io.StringIO()
    lines = LineProgress(out=out)
    lines.begin(cells=1, samples=100, cells_done=0, samples_done=0)
    for word in ("ant", "bee", "cat", "dog", "eel", "fox", "gnu"):
        lines.failed("q0", f"{word} is gone")
        lines.failed("q1", f"{word} is gone")
    lines.end()
    output = out.getvalue().splitlines()
    assert [line.split(":")[1].split()[0] for line in output if line.startswith("sample ")] == [
        "ant",
        "bee",
        "cat",
        "dog",
        "eel",
    ]
    assert "failures of further kinds are counted here; the run records their reasons." in output
    assert sum(line.startswith("failed       2 samples, first q0: ") for line in output) == 5


def test_the_rate_forgets_a_slow_start_and_is_not_printed_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = SilentProgress()
    progress.begin(cells=1, samples=1000, cells_done=0, samples_done=0)
    now[0] = 100.0
    progress.advance(1)
    assert progress.describe() == "1/1,000 samples   starting, for 1:40"
    for _ in range(40):
        now[0] += 1
        progress.advance(10)
    assert progress.describe() == "401/1,000 samples   10 samples/s   1:00 left"
    progress.set_phase("retrieving demonstrations")
    assert "10 samples/s" in progress.describe()
    progress.set_phase("loading the model large", reset_rate=True)
    assert progress.describe() == "401/1,000 samples   loading the model large"


def test_a_terminal_has_a_bar_and_whole_lines_above_it() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Screen()
    bar = make_progress(out=out)
    assert isinstance(bar, BarProgress)
    bar.begin(cells=2, samples=10, cells_done=0, samples_done=0)
    assert bar.bar is not None
    bar.set_phase("loading the model")
    bar.bar.refresh()
    bar.advance(5)
    bar.failed("q[1]", "no [bold] image")
    bar.cell_finished()
    bar.end()
    assert "0/10 samples   loading the model" in out.getvalue()
    assert "sample q[1]: no [bold] image. Sample marked failed; 1 of 10 so far." in out.getvalue()


def test_quiet_prints_nothing_and_a_file_gets_lines() -> None:
    assert type(make_progress(quiet=True)) is SilentProgress
    assert type(make_progress(out=io.StringIO())) is LineProgress


def test_a_rate_is_printed_if_a_batch_takes_longer_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = SilentProgress()
    progress.begin(cells=1, samples=400, cells_done=0, samples_done=0)
    for _ in range(5):
        now[0] += 100
        for _ in range(40):
            progress.advance(1)
    assert 0.3 < progress.rate < 0.9
    assert progress.left != "-"


def test_a_log_reports_phases_before_the_first_sample_and_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = LineProgress(out=out)
    lines.begin(cells=2, samples=10, cells_done=0, samples_done=0)
    lines.set_phase("loading the model")
    for _ in range(40):  # what the heartbeat does
        now[0] += 1
        lines._beat()
    lines.set_phase("retrieving demonstrations")
    lines.set_phase("answering")
    lines.advance(1)
    lines.set_phase("retrieving demonstrations")
    lines.end()
    assert out.getvalue().splitlines() == [
        "plan         2 cells, 10 samples",
        "running      0/10 samples   loading the model",
        "running      0/10 samples   loading the model, for 0:15",
        "running      0/10 samples   loading the model, for 0:30",
        "running      0/10 samples   retrieving demonstrations",
        "running      0/10 samples   answering",
    ]


def test_a_wait_is_reported_while_the_process_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.5)
    out = io.StringIO()
    lines = LineProgress(out=out)
    lines.begin(cells=1, samples=10, cells_done=0, samples_done=0)
    lines.set_phase("loading the model")
    heartbeat = lines.heartbeat
    assert heartbeat is not None
    time.sleep(1.5)
    lines.end()
    assert out.getvalue().count("loading the model") == 2
    assert not heartbeat.thread.is_alive()


@pytest.mark.parametrize(("columns", "bar"), [(80, 14), (120, 28), (40, 4)])
def test_the_bar_leaves_space_for_its_text(monkeypatch: pytest.MonkeyPatch, columns: int, bar: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = BarProgress(out=io.StringIO())
    screen.begin(cells=168, samples=33_600, cells_done=0, samples_done=12_265)
    screen.set_phase("a model that takes long")
    assert screen.column is not None
    screen.set_phase("loading a model with a name")
    assert screen.column.bar_width == bar
    screen.set_phase("answering")
    assert screen.column.bar_width == bar
    screen.end()


def test_the_time_left_counts_the_work_of_the_samples_and_not_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 samples of one unit, then 100 of nine: after half of the samples, nine tenths of the time are left."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = SilentProgress()
    progress.begin(cells=2, samples=200, cells_done=0, samples_done=0)
    progress.expect(100 * 1 + 100 * 9)
    for _ in range(100):
        now[0] += 0.25
        progress.advance(1, 1)
    assert progress.left == "3:45"  # 900 units at 4 a second
    for _ in range(50):
        now[0] += 2.25
        progress.advance(1, 9)
    assert progress.left == "1:52"
