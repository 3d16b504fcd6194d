"""The progress bar of a notebook."""

import io
from types import SimpleNamespace
from typing import Any

import IPython
import IPython.display
import pytest

from experiments.terminal.progress import LineProgress, NotebookProgress, is_in_notebook, make_progress


class Handle:
    """What `display` returns: it records each state of the output."""

    def __init__(self) -> None:
        self.states: list[dict[str, str]] = []

    def update(self, bundle: dict[str, str], raw: bool) -> None:
        self.states.append(bundle)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()

    def display(bundle: dict[str, str], raw: bool, display_id: bool) -> Handle:
        handle.states.append(bundle)
        return handle

    monkeypatch.setattr(IPython.display, "display", display)
    return handle


def test_one_output_is_updated_and_ends_with_the_counts(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.terminal.progress.UPDATE_EVERY", 0)
    bar = NotebookProgress()
    bar.begin(cells=2, samples=8, cells_done=0, samples_done=2)
    bar.advance(2)
    bar.failed("q-1", "the image <b> is gone")
    bar.end()
    middle, last = handle.states[-3]["text/html"], handle.states[-1]
    assert "width:50.0%" in middle
    assert "4/8 samples" in middle
    assert last["text/plain"].startswith("4/8 samples, 1 failed   0:00")
    assert "&lt;b&gt; is gone" in last["text/html"]
    assert "<b>" not in last["text/html"]


def test_updates_are_limited_in_time(handle: Handle) -> None:
    bar = NotebookProgress()
    bar.begin(cells=1, samples=1000, cells_done=0, samples_done=0)
    for _ in range(1000):
        bar.advance(1)
    bar.end()
    assert len(handle.states) < 50
    assert "1,000/1,000 samples" in handle.states[-1]["text/plain"]


@pytest.mark.parametrize(("kernel", "expected"), [(object(), True), (None, False)])
def test_a_kernel_is_a_notebook_and_ipython_in_a_terminal_is_none(
    kernel: Any, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert is_in_notebook() is expected
    assert isinstance(make_progress(), NotebookProgress) is expected
    assert type(make_progress(out=io.StringIO())) is LineProgress
