"""Output of the shipped templates, and errors of wrong ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icl.errors import ConfigError
from icl.loading import component_search_folder
from icl.registry import build, describe
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Turn
from prompts.composers.template import NUL, Mark, role_mark, turns_of
from prompts.conformance import sample_contexts

GOOD = "{% for demo in demos %}{{ demo.images | join }}{{ demo.question }} {{ demo.answer }};{% endfor %}"
QUERY = "{{ query.images | join }}{{ query.question }}"


@pytest.fixture
def template(tmp_path: Path) -> Callable[..., Any]:
    """Builds a composer from the text of a template."""

    def make(text: str, **parameters: Any) -> Any:
        (tmp_path / "mine.j2").write_text(text, encoding="utf-8")
        return build("composer", {"name": "template", "path": str(tmp_path / "mine.j2"), **parameters})

    return make


def _context(shots: int, question: str = "qq?", options: tuple[str, ...] = ()) -> Context:
    whole = next(c for c in sample_contexts() if len(c.demos) == 4 and len(c.query.images) == 1)
    images = whole.demos[0].example.images
    demos = tuple(Demo(Example(f"e{i}", images, f"q{i}?", (f"a{i}",)), 0.5, i) for i in range(shots))
    return Context(Example("q", whole.query.images, question, (), options).query, demos, whole.key)


def _texts(prompt: Prompt) -> list[tuple[str, str]]:
    return [(t.role, "".join("<>" if part.text is None else part.text for part in t.parts)) for t in prompt.turns]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vl_icl", "<>q0?\nAnswer: a0\n<>q1?\nAnswer: a1\n<>qq?\nAnswer:"),
        (
            "mmicl",
            "image 0 is <image0><>. Question: q0? Answer: a0\nimage 1 is <image1><>. Question: q1? Answer: a1\n"
            "image 2 is <image2><>. Question: qq? Answer:",
        ),
        (
            "otter",
            "<>User: q0? GPT:<answer> a0<|endofchunk|><>User: q1? GPT:<answer> a1<|endofchunk|>"
            "<>User: qq? GPT:<answer>",
        ),
        (
            "link_context",
            '[BEGIN EXAMPLE] q0? <> There is "a0" in the image. [END EXAMPLE]\n'
            '[BEGIN EXAMPLE] q1? <> There is "a1" in the image. [END EXAMPLE]\nBased on the previous examples: qq? <>',
        ),
    ],
)
def test_shipped_templates(name: str, text: str) -> None:
    assert _texts(build("composer", {"name": "template", "path": name}).compose(_context(2))) == [("user", text)]


def test_the_instruction_is_a_span_of_its_own() -> None:
    prompt = build("composer", {"name": "template", "instruction": "short"}).compose(_context(0))
    assert _texts(prompt) == [("user", "Answer with one word.\n<>qq?\nAnswer:")]
    assert prompt.spans["instruction"] == (0, 0)


def test_templates_begin_turns(template: Any) -> None:
    text = (
        "{% for demo in demos %}\n{{ user }}\n{{ demo.images | join }}{{ demo.question }}\n{{ assistant }}\n"
        "{{ demo.answer }}\n{% endfor %}\n{{ user }}\n" + QUERY
    )
    assert _texts(template(text).compose(_context(1))) == [
        ("user", "<>q0?"),
        ("assistant", "a0"),
        ("user", "<>qq?"),
    ]


def test_data_is_never_read_as_a_template(template: Any) -> None:
    context = _context(1, "{{ 7 * 7 }} {% for %} \\x00", ("{{ 1 }}",))
    prompt = template(GOOD + QUERY + "{{ query.options | join }}").compose(context)
    assert _texts(prompt) == [("user", "<>q0? a0;<>{{ 7 * 7 }} {% for %} \\x00{{ 1 }}")]


def test_a_file_next_to_the_experiment_is_identified_by_its_content(tmp_path: Path) -> None:
    path, node = tmp_path / "near.j2", {"name": "template", "path": "near.j2"}
    path.write_text(GOOD + QUERY)
    with component_search_folder(tmp_path):
        before = build("composer", node)
        path.write_text(GOOD + QUERY + "!")
        after = build("composer", node)
    assert describe(before) != describe(after)
    assert _texts(before.compose(_context(0))) == [("user", "<>qq?")]
    with component_search_folder(tmp_path), pytest.raises(ConfigError, match=r"near.j2' has changed: its digest is"):
        build("composer", describe(before))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "{{ query.question }}", r"it lacks query.image\[0\]"),
        (GOOD + "{{ query.images | join }}", "it lacks query.question"),
        (QUERY, r"query 'trial': it lacks demo\[0\]"),
        (GOOD + QUERY + "{{ query.question }}", "it contains query.question more than once"),
        (GOOD + QUERY + "{{ demo }}", "no variable is named 'demo'. Did you mean 'demos'"),
        (GOOD + QUERY + "{{ query.qestion }}", "has no attribute 'qestion'"),
        (GOOD + QUERY + "{{ query.answer }}", "has no attribute 'answer'"),
        (GOOD + QUERY + "{% if %}", "line 1: Expected an expression"),
        (
            GOOD + QUERY.replace("query.question", "query.question | upper"),
            "a filter changed a piece into 'QUERY.QUESTION'",
        ),
        (GOOD + QUERY + "{{ assistant }}So", "the model is not asked anything"),
        (GOOD + QUERY + "{% include 'x' %}", "no loader"),
        (GOOD + QUERY + "{{ ''.__class__ }}", "unsafe"),
        (GOOD + QUERY + "{{ range(1000000000) | list }}", "Range too big"),
        (GOOD + QUERY + "{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_wrong_template_is_a_sentence_before_anything_runs(template: Any, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        template(text)


def test_an_instruction_needs_a_place(template: Any) -> None:
    with pytest.raises(ConfigError, match="it lacks instruction"):
        template(GOOD + QUERY, instruction="short")


def test_a_template_for_one_image_says_which_sample_has_more(template: Any) -> None:
    composer = template(GOOD.replace("images | join", "images[0]") + QUERY)
    two = next(c for c in sample_contexts() if len(c.demos) == 2)
    with pytest.raises(ConfigError, match=r"query 'query-0': it lacks demo\[1\].image\[1\]"):
        composer.compose(two)


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no template 'oter.j2' .* Did you mean 'otter.j2'"):
        build("composer", {"name": "template", "path": "oter"})


CONTEXT = Context(Example("q", (), "which?", ()).query, (), StreamKey(3, "q"))
PARTS = {name: Part(f"<{name}>", name) for name in ("a", "b")}
A, B, USER, ASSISTANT = Mark.of("a"), Mark.of("b"), role_mark("user"), role_mark("assistant")


def _turns(text: str) -> list[tuple[str, str]]:
    turns = turns_of(text, PARTS, "template 't', query 'q'")
    return [(turn.role, "".join(str(part.text) for part in turn.parts)) for turn in turns]


def test_text_and_pieces_stand_in_the_turns_that_the_marks_begin() -> None:
    assert _turns(f"one {A} two{B}") == [("user", "one <a> two<b>")]
    text = f"{USER}\n  x {A}\n {ASSISTANT} y {USER}z{B}\n"
    assert _turns(text) == [("user", "x <a>"), ("assistant", "y"), ("user", "z<b>\n")]
    assert _turns(f"{USER}{A}{ASSISTANT}{USER}{B}") == [("user", "<a>"), ("user", "<b>")]


def test_a_mark_begins_a_system_turn_whose_text_has_a_name(template: Any) -> None:
    own = template("{{ system }}Be {{ 'short' }}.{{ user }}{{ query.images | join }}{{ query.question }}"
                    "{% for d in demos %}{{ d.images | join }}{{ d.question }}{{ d.answer }}{% endfor %}")  # fmt: skip
    system, user = own.compose(CONTEXT).turns
    assert system == Turn("system", (Part("Be short.", "system"),))
    assert [part.name for part in user.parts] == ["query.question"]
    with pytest.raises(ConfigError, match=r"system: the composer writes a system turn of its own\. Remove one"):
        build("composer", {"name": "template", "path": own.path, "system": "Be long."})


def test_pieces_keep_their_names_and_text_has_none() -> None:
    (turn,) = turns_of(f"one {A}{B}", PARTS, "t")
    assert [part.name for part in turn.parts] == ["", "a", "b"]


@pytest.mark.parametrize(("text", "says"), [
    (f"{A}", "it lacks b"),
    ("", "it lacks a, b"),
    (f"{A}{B}{A}", "it contains a more than once"),
    (f"{A}{B}{NUL}", "a filter changed a piece"),
    (f"{A}{B}{NUL}A{NUL}", "a filter changed a piece into 'A'"),
    (f"{A}{B}{NUL}@tool{NUL}", "a filter changed a piece into '@tool'"),
    (f"{A}{B}{NUL}user{NUL}", "a filter changed a piece into 'user'"),
    (f"{A}{role_mark('system')}x{USER}{B}", "a system turn stands before all others"),
    (f"{USER}{A}{ASSISTANT}{B}", "the prompt ends in the assistant's turn"),
])  # fmt: skip
def test_a_changed_missing_or_repeated_piece_is_an_error(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^template 't', query 'q': {says}"):
        _turns(text)


def test_no_text_and_no_piece_is_no_prompt() -> None:
    with pytest.raises(ConfigError, match="ends in the assistant's turn"):
        turns_of("", {}, "t")


def test_a_mark_carries_the_number_of_its_image() -> None:
    assert (Mark.of("a").number, Mark.of("a", 3).number) == (0, 3)
    assert Mark.of("a", 3) == f"{NUL}a{NUL}"
