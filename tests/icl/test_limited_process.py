"""A process that works on files of others: how it starts, and what its end looks like."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icl.limited_process import TIMED_OUT, LimitedProcess

WORKER = """
import json, sys, time
from icl.limited_process import serve

def answer(request):
    if request["do"] == "open":
        try:
            return {"text": open(__file__).read(9)}
        except OSError:
            return {"text": "closed"}
    if request["do"] == "fill":
        try:
            return {"text": str(len(bytearray(2**32)))}
        except MemoryError:
            return {"text": "full"}
    while request["do"] == "wait":
        time.sleep(0.01)
    return {"text": json.dumps(request)}

serve(answer, 1, 2**30, opens_files=OPENS)
"""
HALF = "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\nprint('{', end='', flush=True)\nsys.exit(3)\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LimitedProcess]]:
    started: list[LimitedProcess] = []

    def make(code: str = WORKER, opens: bool = False) -> LimitedProcess:
        (tmp_path / "worker.py").write_text(code.replace("OPENS", str(opens)))
        started.append(LimitedProcess(tmp_path / "worker.py", "works"))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def test_a_request_that_takes_too_long_ends_the_process_and_the_next_one_starts_it_again(start: Callable) -> None:
    process = start()
    assert process.ask({"do": "wait"}) == TIMED_OUT
    assert process.ask({"do": "echo"}) == {"text": '{"do": "echo"}'}


def test_half_an_answer_is_the_end_of_the_process(start: Callable) -> None:
    assert start(HALF).ask({}) == 3


@pytest.mark.parametrize(("opens", "text"), [(True, "import js"), (False, "closed")])
def test_files_are_opened_only_where_this_is_allowed(opens: bool, text: str, start: Callable) -> None:
    expected = {"text": "\n" + text[:-1] if opens else text}
    assert start(opens=opens).ask({"do": "open"}) == expected


def test_memory_is_limited(start: Callable) -> None:
    assert start().ask({"do": "fill"}) == {"text": "full"}


def test_modules_beside_the_worker_are_not_imported(start: Callable, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')\n")
    assert start().ask({"do": "echo"}) == {"text": '{"do": "echo"}'}


def test_a_worker_that_does_not_start_is_an_error_with_its_last_words(start: Callable) -> None:
    with pytest.raises(RuntimeError, match="the process that works did not start: no module here"):
        start("import sys\nsys.exit('no module here')\n").ask({})
