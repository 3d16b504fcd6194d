"""A model's descriptions of images, instead of them or in addition to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, PlanError
from icl.images import Image
from icl.models.base import Request
from icl.registry import build
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Context, Demo, Example, Generation


@dataclass
class DescribingModel:
    """Names the color of the last image it sees."""

    digest: str
    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()
    texts: list[str] = field(default_factory=list)

    def load(self) -> None: ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.texts += [request.prompt.text for request in requests]
        names = {200: "red", 100: "dark"}
        return [Generation(names[request.prompt.images[-1].open().getpixel((0, 0))[0]]) for request in requests]  # type: ignore[index]


def _image(shade: int) -> Image:
    return Image.from_pil(PILImage.new("RGB", (4, 4), (shade, 0, 0)), f"{shade}")


def _context() -> Context:
    demos = (
        Demo(Example("e0", (_image(200),), "which?", ("yes",)), 0.9, 0),
        Demo(Example("e1", (), "no image?", ("no",)), 0.8, 1),
    )
    return Context(Example("q", (_image(100),), "and this?", ("no",)).query, demos, StreamKey(0, "q"))


def _done(name: str, **more: Any) -> tuple[Context, DescribingModel]:
    model: Any = DescribingModel(name)
    transform = build("transform", {"name": "descriptions", **more})
    return transform.fitted(Pool(()), model).transform(_context()), model


def test_demonstrations_become_captions_and_the_query_keeps_its_image() -> None:
    done, model = _done("plain")
    assert [demo.example.question for demo in done.demos] == ["red\nwhich?", "no image?"]
    assert [len(demo.example.images) for demo in done.demos] == [0, 0]
    assert done.query == _context().query
    assert model.texts == ["[user] <image>\nDescribe the picture in one sentence."]
    assert done.provenance == ("descriptions: caption",)


def test_a_summary_sees_the_label_and_says_so() -> None:
    done, model = _done("vicl", preset="vicl")
    assert "which?\nAnswer: yes\nSay in one sentence what is visible" in model.texts[0]
    assert done.provenance == ("descriptions: summary, saw labels",)


def test_two_stages_keep_the_image_and_ask_after_the_description() -> None:
    done, model = _done("kosmos", preset="kosmos")
    assert (done.query.question, done.query.images) == ("dark and this?", (_image(100),))
    assert model.texts == ["[user] <image>\nIntroduce this picture in detail:"]
    assert done.demos == _context().demos


def test_a_second_look_includes_the_demonstrations() -> None:
    done, model = _done("browse", preset="browse")
    assert model.texts[0].startswith("[user] <image>which?\n[assistant] yes\n[user] no image?\n[assistant] no\n")
    assert "and this?\nBefore you answer" in model.texts[0]
    assert "no\n[user] <image>" in model.texts[0]
    assert done.provenance == ("descriptions: look, saw labels",)


def test_the_request_never_contains_the_query_s_answer() -> None:
    _, model = _done("all", ask="summary", where="all")
    assert sum("Answer:" in text for text in model.texts) == 1
    assert len(model.texts) == 2


def test_an_example_is_described_once() -> None:
    model: Any = DescribingModel("once")
    fitted = build("transform", "descriptions").fitted(Pool(()), model)
    assert fitted.transform(_context()) == fitted.transform(_context())
    assert len(model.texts) == 1


def test_wrong_settings_are_reported() -> None:
    with pytest.raises(PlanError, match="needs a model"):
        build("transform", "descriptions").transform(_context())
    with pytest.raises(PlanError, match="there is none"):
        build("transform", "descriptions").fitted(Pool(()), None)
    with pytest.raises(ConfigError, match="where is 'query'"):
        build("transform", {"name": "descriptions", "context": True})
    with pytest.raises(ConfigError, match=r"must have \{caption\} once"):
        build("transform", {"name": "descriptions", "text": "x"})
