import io
import logging
import sys

import pytest

from experiments.cli.main import verbose_logging
from experiments.terminal.progress import make_progress, spinner


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("verbosity", "levels"), [(0, []), (1, ["INFO", "WARNING"]), (2, ["DEBUG", "INFO", "WARNING"])]
)
def test_a_level_shows_records_of_the_toolkit_alone(
    verbosity: int, levels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with verbose_logging(verbosity):
        for name in ("icl.somewhere", "another"):
            logger = logging.getLogger(name)
            logger.debug("a %s", name)
            logger.info("b %s", name)
            logger.log(logging.WARNING if name.startswith("icl") else logging.INFO, "c %s", name)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    texts = {"DEBUG": "a", "INFO": "b", "WARNING": "c"}
    assert lines == [f"{level} icl.somewhere: {texts[level]} icl.somewhere" for level in levels]


def test_the_logger_is_restored() -> None:
    logger = logging.getLogger("icl")
    before = (logger.level, list(logger.handlers))
    with pytest.raises(ValueError, match="x"), verbose_logging(2):
        raise ValueError("x")
    assert (logger.level, list(logger.handlers)) == before


def test_a_record_contains_no_terminal_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with verbose_logging(1):
        logging.getLogger("icl").info("\x1b[2J")
    assert "\x1b" not in capsys.readouterr().err


def test_a_record_clears_the_spinner_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with verbose_logging(1), spinner(out=screen) as report_progress:
        report_progress("reading", 0, 0)
        logging.getLogger("icl.x").info("opened")
        report_progress("counting", 0, 0)
    _, reading, record, counting, end = screen.getvalue().split("\r\x1b[K")
    assert (reading, end) == ("reading      …", "")
    assert record.endswith("INFO icl.x: opened\n")
    assert counting == "counting     …"


def test_a_record_is_a_whole_line_above_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    with verbose_logging(1):
        bar = make_progress(out=screen)
        bar.begin(cells=1, samples=10, cells_done=0, samples_done=0)
        logging.getLogger("icl.x").info("opened")
        bar.end()
    record = next(line for line in screen.getvalue().split("\n") if "opened" in line)
    assert "samples" not in record.split("\x1b[2K")[-1]
    assert record.rstrip("\r").endswith("INFO icl.x: opened")
