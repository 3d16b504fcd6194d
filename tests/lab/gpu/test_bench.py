"""`make gpu`: each check is a process of its own, and every end of it is a row of the page."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from lab.gpu import bench as bench_module
from lab.gpu import requirements
from lab.gpu.__main__ import main
from lab.gpu.bench import run_bench
from lab.gpu.check import Bench, BenchCheck, Figure, all_checks, load_check
from lab.gpu.page import JSON_FILE, PAGE_FILE
from lab.gpu.run import MAX_SECONDS, BenchRow, run_checks

CHECK = """
from lab.gpu.check import BenchCheck, Figure, NotHereError

def run(bench):
    yield Figure("first <b>", "1 s", "1 s", True)
    {body}

CHECK = BenchCheck({number}, "check {number}", "it passes", {minutes}, run, needs={needs}, uses_models=False)
"""
BODIES = {
    "hangs": "import time; time.sleep(60)",
    "dies": "import os; os.kill(os.getpid(), 9)",
    "exits": "import sys; print('the last line'); sys.stdout.flush(); import os; os._exit(3)",
    "raises": "raise RuntimeError('CUDA error: no kernel image')",
    "misses": "yield Figure('second', '3', 'at most 2', False)",
    "lacks": "raise NotHereError('needs a card that is newer')",
    "works": "yield Figure('recorded', '7')",
}


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[BenchCheck]:
    """One check of each kind. The one that hangs has a limit of 2 s."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(BenchCheck, "seconds", lambda self, is_quick: 60 * self.minutes)
    made = []
    for number, (name, body) in enumerate(BODIES.items(), 1):
        minutes = 2 / 60 if name == "hangs" else 1
        text = CHECK.format(body=body, number=number, minutes=minutes, needs=())
        (tmp_path / f"bench_check_{name}.py").write_text(text)
        made.append(load_check(f"bench_check_{name}"))
    return made


def test_a_check_that_hangs_dies_or_raises_is_one_red_row_and_the_others_go_on(
    checks: Sequence[BenchCheck], tmp_path: Path
) -> None:
    reported = list[BenchRow]()
    page = run_bench(tmp_path / "out", on_row=reported.append, checks=checks)
    rows = dict(zip(BODIES, page.rows, strict=True))
    red = dict.fromkeys(("hangs", "dies", "exits", "raises", "misses"), "red")
    assert {name: row.status for name, row in rows.items()} == red | {"lacks": "not here", "works": "ok"}
    assert rows["hangs"].text == "stopped after its limit of 2 s. See 01.log."
    assert rows["dies"].text == "ended by SIGKILL. See 02.log."
    assert rows["exits"].text == "ended with status 3. the last line. See 03.log."
    assert rows["raises"].text == "RuntimeError: CUDA error: no kernel image"
    assert rows["lacks"].text == "needs a card that is newer"
    assert all(row.figures[0] == Figure("first <b>", "1 s", "1 s", True) for row in page.rows), "lost a figure"
    assert reported == page.rows
    written = json.loads((tmp_path / "out" / JSON_FILE).read_text())
    assert written == page.to_dict()
    assert (written["ok"], [row["status"] for row in written["rows"]]) == (False, [row.status for row in page.rows])
    text = (tmp_path / "out" / PAGE_FILE).read_text()
    assert "first &lt;b&gt;" in text
    assert text.count('<tr id="check-') == len(BODIES)


def test_the_command_writes_the_page_and_ends_with_1_if_a_row_is_red(
    checks: Sequence[BenchCheck], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "page")
    for chosen, status in ((checks[-1:], 0), (checks[4:5], 1)):
        monkeypatch.setattr(bench_module, "all_checks", lambda chosen=chosen: chosen)
        assert main(["--quick", "--out", out]) == status
        assert f"page      {out}/{PAGE_FILE}" in capsys.readouterr().out
    assert main(["--json", "--out", out]) == 1
    assert json.loads(capsys.readouterr().out)["rows"][0]["title"] == "check 5"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "/dev/null"], "--out: /dev/null is not a folder that can be written to"),
    ],
)
def test_bad_options_get_a_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_what_the_machine_lacks_is_a_row_without_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *args, **more: pytest.fail("a process was started"))
    monkeypatch.setattr(requirements, "has_gpu", lambda: False)
    gpu_checks = [check for check in all_checks() if "gpu" in check.needs or "two gpus" in check.needs]
    assert [check.number for check in gpu_checks] == [3, 8, 9, 13, 14]
    rows = list(run_checks(gpu_checks, Bench(tmp_path, "cpu"), tmp_path, time.monotonic() + 9))
    assert {row.status for row in rows} == {"not here"}
    assert all("GPU" in row.text for row in rows)


def test_checks_that_need_weights_are_red_if_these_cannot_be_made_and_none_starts_after_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *args, **more: pytest.fail("a process was started"))
    by_number = {check.number: check for check in all_checks()}
    rows = list(
        run_checks(
            [by_number[4], by_number[7], by_number[1], by_number[11]], Bench(tmp_path, "cuda", is_quick=True), tmp_path,
            time.monotonic() - 1, lambda: "the disk is full",
        )
    )  # fmt: skip
    assert [(row.status, row.text) for row in rows] == [
        ("red", "the disk is full"),
        ("red", "the disk is full"),
        ("red", "not run, because the time of all checks was used up"),
        ("not here", "left out by --quick"),
    ]


def test_a_check_has_the_time_that_is_left(checks: Sequence[BenchCheck], tmp_path: Path) -> None:
    start = time.monotonic()
    bench = Bench(tmp_path / "b", "cpu")
    (hangs,) = run_checks([replace(checks[0], minutes=1)], bench, tmp_path / "logs", start + 2)
    assert hangs.text.startswith("stopped after its limit of ")
    assert time.monotonic() - start < 20


def test_each_check_is_one_file_and_all_limits_together_fit_into_the_time() -> None:
    checks = all_checks()
    assert [check.number for check in checks] == list(range(1, 16))
    folder = Path(import_module("lab.gpu.checks").__path__[0])
    assert len({check.module for check in checks}) == 15 == len(list(folder.glob("*.py"))) - 1
    assert sum(check.seconds(is_quick=False) for check in checks) <= MAX_SECONDS[False]
    assert all(check.seconds(is_quick=True) <= MAX_SECONDS[True] / 3 for check in checks if check.in_quick)
    assert all(check.title and check.passes for check in checks)
