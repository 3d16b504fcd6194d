"""A request for a form of answer is a treatment with an effect of its own."""

from pathlib import Path
from typing import Any

from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.terminal.progress import SilentProgress

MODEL = '''
from dataclasses import dataclass
from icl.models.fake import FakeModel


@dataclass(frozen=True, kw_only=True)
class Talks(FakeModel):
    """Explains its answer unless it is asked for a short one."""

    def answer_to(self, request):
        return "red" if "single word" in request.prompt.text else "I would say it is either red or, maybe, not."
'''


def test_each_form_is_compared_with_the_composer_that_asks_for_none(mapping: Any, tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(MODEL)
    grid = {"composer": ["chat", "interleaved", {"name": "chat", "answer": "short"}], "shots": [0, 2]}
    config = mapping(model={"name": f"{tmp_path / 'talks.py'}:Talks"}, grid=grid, metrics=["lenient"])
    view = view_run(load_run(run(load_config(config), tmp_path, SilentProgress()).folder))
    (one,) = view.comparisons["Answer form"]
    assert (one.arm, one.against) == ("chat(answer=short)", "chat")
    assert one.wrapping == "Unread outputs: 1.00 before, .00 after."
    (finding,) = [finding for finding in view.findings if finding.topic == "Answer form"]
    assert one.wrapping in finding.sentence


def test_without_a_request_there_is_no_such_topic(viewed: Any) -> None:
    assert viewed(queries=8).comparisons["Answer form"] == []
