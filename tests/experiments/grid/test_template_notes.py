"""What a plan says about the chat template of a model: what matters for the grid, and nothing else."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import NAMES, published, published_text, renderer
from tiny_models import image

from experiments.grid.grid_warnings import template_notes
from icl.errors import ModelError
from icl.models.hf.template_facts import TemplateFacts
from icl.registry import build
from icl.types import Context, Demo, Example, Query
from tests.icl.models.hf.test_template_facts import SHAPES


def notes(facts: TemplateFacts, *composers: Any, **cell: Any) -> list[str]:
    model = SimpleNamespace(template_facts=facts)
    own = {"shots": 2, "answer_mode": "generate", "max_thinking_tokens": None, "control": False} | cell
    cells = [
        SimpleNamespace(model=model, composer=build("composer", node), labels={"composer": str(node)}, **own)
        for node in composers or ["chat"]
    ]
    grid: Any = SimpleNamespace(models=[model], cells=cells)
    return [note for _, note in template_notes(grid)]


def facts_of(name: str) -> TemplateFacts:
    return renderer(SHAPES[name][0]).facts


SYSTEM = {"name": "chat", "system": "Be short."}


@pytest.mark.parametrize(
    ("name", "composers", "cell", "expected"),
    [
        ("turns", ["chat"], {}, []),
        ("turns", ["interleaved"], {"answer_mode": "options"}, []),
        (
            "block opened in prompts alone",
            ["interleaved"],
            {"answer_mode": "options"},
            ["options are scored after '</think>'"],
        ),
        (
            "block opened in prompts alone",
            ["interleaved"],
            {},
            ["prompts end in an open reasoning block (<think>), so the tokens"],
        ),
        ("block opened in prompts alone", ["interleaved"], {"max_thinking_tokens": 9}, []),
        ("block opened in prompts alone", ["interleaved"], {"max_thinking_tokens": 9, "answer_mode": "options"}, []),
        ("closed block in prompts alone", ["chat"], {}, ["the query has a reasoning block (<think>)"]),
        ("closed block in prompts alone", ["interleaved"], {}, []),
        (
            "closed block in prompts alone",
            ["interleaved"],
            {"max_thinking_tokens": 9},
            ["max_thinking_tokens has no effect with composer interleaved: prompts end after '</think>'"],
        ),
        ("closed block in prompts alone", ["interleaved"], {"max_thinking_tokens": 0}, []),
        (
            "turns",
            ["interleaved"],
            {"max_thinking_tokens": 9, "answer_mode": "options"},
            ["max_thinking_tokens limits only reasoning that the model begins by itself with composer interleaved: "
             "prompts open no reasoning block, so options are scored without reasoning if it begins none"],
        ),
        (
            "block opened in prompts alone",
            [{"name": "interleaved", "empty_blocks": "everywhere"}, "interleaved"],
            {"max_thinking_tokens": 9},
            ["max_thinking_tokens has no effect with composer {'name'"],
        ),
        (
            "block opened in prompts alone",
            [{"name": "interleaved", "empty_blocks": "nowhere"}],
            {"max_thinking_tokens": 9},
            ["max_thinking_tokens limits only reasoning that the model begins"],
        ),
        ("closed block in prompts alone", [{"name": "chat", "empty_blocks": "everywhere"}], {}, []),
        ("trimmed texts", ["chat"], {}, []),
        ("trimmed texts", ["interleaved"], {}, ["the chat template removes white space around images"]),
        (
            "trimmed texts",
            [{"name": "chat", "delimiter": mark} for mark in ("", "\n", " ")],
            {},
            ["the chat template removes white space", "the prompts of composers {'name'"],
        ),
        ("turns", [{"name": "chat", "delimiter": mark} for mark in ("", "\n", " ")], {}, []),
        ("turns", [{"name": "blocks", "delimiter": mark} for mark in ("a", "b")], {"shots": 0}, ["the prompts of"]),
        ("images before texts", ["chat"], {}, []),
        ("images before texts", ["interleaved"], {}, ["the chat template puts the images of a turn"]),
        ("system turn refused", ["chat"], {}, []),
        ("system turn refused", [SYSTEM], {}, ["the chat template refuses a system turn. Use `instruction_text`"]),
        ("system text at the end", [SYSTEM], {}, ["the chat template moves the system turn behind other turns"]),
        ("system text in the user turn", [SYSTEM], {}, ["the chat template writes the system turn into the"]),
        ("default system turn", ["chat"], {}, ["the chat template adds a system prompt of its own, of 33 characters"]),
        (
            "default system turn",
            [SYSTEM],
            {},
            ["the chat template adds a system prompt of its own, of 33 characters, which `system` replaces"],
        ),
        ("one turn alone", ["chat"], {}, ["the chat template takes no answers as turns. Use a"]),
        ("date", ["chat"], {}, ["the chat template writes a date into prompts: the day on which the run starts"]),
    ],
)  # fmt: skip
def test_a_plan_says_what_matters_for_the_grid(
    name: str, composers: list[Any], cell: dict[str, Any], expected: list[str]
) -> None:
    sentences = notes(facts_of(name), *composers, **cell)
    assert [note[: len(start)] for note, start in zip(sentences, expected, strict=False)] == expected
    assert len(sentences) == len(expected), sentences


def test_a_plan_says_how_a_thinking_budget_gets_its_block() -> None:
    everywhere = {"name": "interleaved", "empty_blocks": "everywhere"}
    opening, closing = facts_of("block opened in prompts alone"), facts_of("closed block in prompts alone")
    switched = replace(closing, arguments=("enable_thinking",))
    ends = [notes(facts, everywhere, max_thinking_tokens=9)[0].split("'. ")[-1] for facts in (opening, switched)]
    by_template = "model.template, so that prompts open one (it takes enable_thinking)"
    as_template = "Set composer.empty_blocks: as_template"
    assert ends == [as_template, f"{as_template} and {by_template}"]
    assert notes(switched, "interleaved", max_thinking_tokens=9)[0].endswith(f"after '</think>'. Set {by_template}")


COMPOSERS: list[Any] = ["chat", "interleaved", "blocks", "vl_icl", "mmicl", "otter", "link_context"]


def composed(node: Any, **more: Any) -> Any:
    named = node if node in ("chat", "interleaved", "blocks") else "template"
    composer = build("composer", {"name": named, **({"path": node} if named == "template" else {}), **more})
    demos = tuple(Demo(Example(f"e{i}", (image(i),), "Which color?", ("tomato",), ()), 0.5, i) for i in range(2))
    return composer.compose(Context(Query("q", (image(7),), "Which color?"), demos))


@pytest.mark.parametrize("name", NAMES)
def test_every_composer_writes_a_prompt_of_a_published_template_or_has_a_sentence(name: str) -> None:
    published_text(name)
    own = published(name)
    for node in (*COMPOSERS, {"name": "interleaved", "first": "text"}):
        prompt = composed(node) if isinstance(node, str) else composed("interleaved", first="text")
        if not own.facts.accepts_images:
            with pytest.raises(ModelError, match="reads texts only, so it cannot place images"):
                own.text(prompt)
            continue
        text = own.text(prompt)
        assert text.count(own.slot) == 3
        assert text.count("Which color?") == 3
        assert "[{" not in text
        places = [text.find(part.text.strip()) for part in prompt.parts() if part.name == "demo[0].answer"]
        assert all(place > text.find(own.slot) for place in places)
