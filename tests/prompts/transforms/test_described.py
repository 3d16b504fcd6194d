"""What a model says of pictures, in their place or beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, PlanError
from icl.images import Picture
from icl.models.base import Request
from icl.registry import build
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Context, Demo, Example, Generation


@dataclass
class Seer:
    """Names the colour of the last picture it sees."""

    digest: str
    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()
    asked: list[str] = field(default_factory=list)

    def load(self) -> None: ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.asked += [request.prompt.text for request in requests]
        names = {200: "red", 100: "dark"}
        return [Generation(names[request.prompt.pictures[-1].open().getpixel((0, 0))[0]]) for request in requests]  # type: ignore[index]


def _picture(shade: int) -> Picture:
    return Picture.from_image(PILImage.new("RGB", (4, 4), (shade, 0, 0)), f"{shade}")


def _context() -> Context:
    demos = (
        Demo(Example("e0", (_picture(200),), "which?", ("yes",)), 0.9, 0),
        Demo(Example("e1", (), "no picture?", ("no",)), 0.8, 1),
    )
    return Context(Example("q", (_picture(100),), "and this?", ("no",)).query, demos, StreamKey(0, "q"))


def _done(name: str, **more: Any) -> tuple[Context, Seer]:
    model: Any = Seer(name)
    transform = build("transform", {"name": "described", **more})
    return transform.fitted(Pool(()), model).transform(_context()), model


def test_demonstrations_become_captions_and_the_query_keeps_its_picture() -> None:
    done, model = _done("plain")
    assert [demo.example.question for demo in done.demos] == ["red\nwhich?", "no picture?"]
    assert [len(demo.example.pictures) for demo in done.demos] == [0, 0]
    assert done.query == _context().query
    assert model.asked == ["[user] <picture>\nDescribe the picture in one sentence."]
    assert done.provenance == ("described: caption",)


def test_a_summary_sees_the_label_and_says_so() -> None:
    done, model = _done("vicl", preset="vicl")
    assert "which?\nAnswer: yes\nSay in one sentence what is visible" in model.asked[0]
    assert done.provenance == ("described: summary, saw labels",)


def test_two_stages_keep_the_picture_and_ask_behind_what_was_said() -> None:
    done, model = _done("kosmos", preset="kosmos")
    assert (done.query.question, done.query.pictures) == ("dark and this?", (_picture(100),))
    assert model.asked == ["[user] <picture>\nIntroduce this picture in detail:"]
    assert done.demos == _context().demos


def test_a_second_look_has_seen_the_demonstrations() -> None:
    done, model = _done("browse", preset="browse")
    assert model.asked[0].startswith("[user] <picture>which?\n[assistant] yes\n[user] no picture?\n[assistant] no\n")
    assert "and this?\nBefore you answer" in model.asked[0]
    assert "no\n[user] <picture>" in model.asked[0]
    assert done.provenance == ("described: look, saw labels",)


def test_of_the_query_no_answer_is_told() -> None:
    _, model = _done("all", ask="summary", where="all")
    assert sum("Answer:" in text for text in model.asked) == 1
    assert len(model.asked) == 2


def test_an_example_is_described_once() -> None:
    model: Any = Seer("once")
    fitted = build("transform", "described").fitted(Pool(()), model)
    assert fitted.transform(_context()) == fitted.transform(_context())
    assert len(model.asked) == 1


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(PlanError, match="asks a model"):
        build("transform", "described").transform(_context())
    with pytest.raises(PlanError, match="there is none"):
        build("transform", "described").fitted(Pool(()), None)
    with pytest.raises(ConfigError, match="where is 'query'"):
        build("transform", {"name": "described", "context": True})
    with pytest.raises(ConfigError, match=r"must have \{caption\} once"):
        build("transform", {"name": "described", "text": "x"})
