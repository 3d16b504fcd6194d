"""Orders chosen by a model with given probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from icl.errors import PlanError
from icl.images import Image
from icl.registry import build
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Context, Demo, Example, Prompt

Scores = Callable[[str, str], Sequence[float]]
"""(answers of the demonstrations, as "abc", question) -> probabilities of "a" and "b"."""


@dataclass
class Model:
    """A model with the given scores."""

    scores: Scores
    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs: ClassVar[frozenset[str]] = frozenset()
    prompts: list[Prompt] = field(default_factory=list)

    def load(self) -> None: ...

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        return prompt

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[i] for i in range(len(options))]

    def open(self, prompts: Sequence[Prompt]) -> Any:
        self.prompts += prompts
        return _Opened([self.scores(*_read(prompt)) for prompt in prompts])


@dataclass
class _Opened:
    rows: Sequence[Sequence[float]]

    def suffix_logprobs(self, suffixes: Any) -> Any:
        return [
            [[{ids[0]: float(np.log(row[ids[0]]))}] for ids in own]
            for row, own in zip(self.rows, suffixes, strict=True)
        ]


def _read(prompt: Prompt) -> tuple[str, str]:
    parts = {part.name: part.text or "" for part in prompt.parts()}
    return "".join(text for name, text in parts.items() if name.endswith("answer")), parts["query.question"]


def _context(answers: str = "abc", question: str = "now?", images: tuple[Image, ...] = ()) -> Context:
    demos = tuple(Demo(Example(f"e{i}", (), "?", (a,)), 0.5, i) for i, a in enumerate(answers))
    return Context(Example("q", images, question, (), ("a", "b")).query, demos, StreamKey(0, "q"))


POOL = Pool(tuple(Example(f"pool-{i}", (), f"{i}", ("ab"[i % 2],), ("a", "b")) for i in range(8)))


def _ordered(node: Any, scores: Scores, context: Context, pool: Pool = POOL) -> tuple[str, Model, tuple[str, ...]]:
    model = Model(scores)
    asking: Any = model
    done = build("orderer", node).fitted(pool, asking).order(context)
    return "".join(demo.example.answer for demo in done.demos), model, done.provenance


def _even_or_certain(letters: str, question: str) -> Sequence[float]:
    """'bca': half of the probes get each answer, and each a sure one. 'cab': every probe is unsure, all lean to 'a'."""
    if letters == "bca":
        return (0.9, 0.1) if int(question) % 2 else (0.1, 0.9)
    return (0.51, 0.49) if letters == "cab" else (0.8, 0.2)


def test_global_and_local_entropy_choose_differently() -> None:
    assert _ordered("entropy", _even_or_certain, _context())[0] == "bca"
    assert _ordered({"name": "entropy", "by": "local"}, _even_or_certain, _context())[0] == "cab"


def test_of_equal_orders_the_usual_one_is_taken_and_its_number_recorded() -> None:
    letters, model, marks = _ordered("entropy", lambda letters, question: (0.5, 0.5), _context())
    assert letters == "cba"
    assert marks == ("entropy: order 0 of 6",)
    assert len(model.prompts) == 6 * 8


def test_probes_are_of_the_pool_and_neither_query_nor_demonstrations() -> None:
    context = _context("ab")
    near = [Example("q", (), "itself", ("a",)), *(demo.example for demo in context.demos)]
    _, model, _ = _ordered(
        {"name": "entropy", "probes": 3}, lambda *_: (0.5, 0.5), context, Pool((*near, *POOL.examples))
    )
    questions = {_read(prompt)[1] for prompt in model.prompts}
    assert len(questions) == 3
    assert questions <= {example.question for example in POOL.examples}
    assert all(not any(part.name == "query.answer" for part in prompt.parts()) for prompt in model.prompts)
    with pytest.raises(PlanError, match=r"for query 'q' the pool of 3 contains only its 2 demonstrations\. Use fewer"):
        _ordered("entropy", lambda *_: (0.5, 0.5), context, Pool(tuple(near)))


def test_probes_have_the_options_of_the_query_and_none_of_its_images() -> None:
    from PIL import Image as PILImage

    own, other = (Image.from_pil(PILImage.new("RGB", (4, 4), name), name) for name in ("red", "blue"))
    copy = Example("same image", (own,), "copy", ("a",), ("a", "b"))
    pool = Pool((copy, Example("apart", (other,), "apart", ("a",), ("a", "b")), Example("c", (), "c", ("c",), ("c",))))
    context = _context("ab", images=(own,))
    for members, question in ((pool, "apart"), (Pool(pool.examples[2:]), "c")):
        _, model, _ = _ordered("entropy", lambda *_: (0.5, 0.5), context, members)
        assert {_read(prompt)[1] for prompt in model.prompts} == {question}
    same = Pool((copy, pool.examples[2]))  # the one with its options has its image: then those with others are asked
    _, model, _ = _ordered("entropy", lambda *_: (0.5, 0.5), context, same)
    assert {_read(prompt)[1] for prompt in model.prompts} == {"c"}
    with pytest.raises(PlanError, match=r"all 1 that are none of its 2 demonstrations have its image.*other images"):
        _ordered("entropy", lambda *_: (0.5, 0.5), context, Pool((copy,)))


def _leaning(letters: str, question: str) -> Sequence[float]:
    """Without a question 'abcd' and 'bacd' lean least; the query moves 'bacd' most of these, and 'dcba' most of all."""
    empty = {"abcd": (0.5, 0.5), "bacd": (0.55, 0.45), "dcba": (0.95, 0.05)}.get(letters, (0.8, 0.2))
    if question == "N/A":
        return empty
    return {"abcd": (0.45, 0.55), "bacd": (0.3, 0.7), "dcba": (0.01, 0.99)}.get(letters, empty)


def test_demo_takes_the_largest_shift_among_the_least_biased_orders() -> None:
    letters, model, marks = _ordered("demo", _leaning, _context("abcd"))
    assert letters == "bacd"
    assert marks[0].startswith("demo: order ")
    assert len(model.prompts) == 24 + 6
    everything = {"".join(order) for order in (_read(prompt)[0] for prompt in model.prompts[:24])}
    assert len(everything) == 24


def test_demo_measures_the_shift_by_total_variation() -> None:
    """(.5, .5) to (.8, .2) is a total variation of .3 and a divergence of .19; (.1, .9) to (.35, .65) .25 and .23."""
    table = {"dcba": {"N/A": (0.5, 0.5), "now?": (0.8, 0.2)}, "cdba": {"N/A": (0.1, 0.9), "now?": (0.35, 0.65)}}

    def moved(letters: str, question: str) -> Sequence[float]:
        return table.get(letters, {}).get(question, (0.99, 0.01))

    assert _ordered("demo", moved, _context("abcd"))[0] == "dcba"
    del table["dcba"]
    assert _ordered("demo", moved, _context("abcd"))[0] == "cdba"


def test_demo_blanks_the_images_of_the_empty_query() -> None:
    from PIL import Image as PILImage

    image = Image.from_pil(PILImage.new("RGB", (4, 4), (200, 0, 0)), "red")
    _, model, _ = _ordered("demo", lambda *_: (0.5, 0.5), _context("ab", images=(image,)))
    empty = [prompt for prompt in model.prompts if _read(prompt)[1] == "N/A"]
    assert {prompt.images[0].open().getpixel((0, 0)) for prompt in empty} == {(128, 128, 128)}
    assert {prompt.images[0] for prompt in model.prompts if prompt not in empty} == {image}


def test_more_demonstrations_have_24_distinct_orders_for_each_query() -> None:
    _, model, _ = _ordered({"name": "demo"}, lambda *_: (0.5, 0.5), _context("abcdef"))
    orders = [_read(prompt)[0] for prompt in model.prompts if _read(prompt)[1] == "N/A"]
    assert len(set(orders)) == len(orders) == 24
    assert orders[0] == "fedcba"


def test_missing_inputs_are_reported() -> None:
    context = _context()
    orderer = build("orderer", "entropy")
    with pytest.raises(PlanError, match=r"'entropy' needs a model\. In Python, call fitted"):
        orderer.order(context)
    with pytest.raises(PlanError, match=r"'entropy' needs a model .* got no model.*orderer 'reversed'"):
        orderer.fitted(POOL, None)
    one = Pool(tuple(Example(f"p{i}", (), "?", ("a",)) for i in range(4)))
    bare = Context(Example("q", (), "?", ()).query, context.demos, context.key)
    model: Any = Model(lambda *_: (0.5, 0.5))
    with pytest.raises(PlanError, match="compares the probabilities of 2 to 64 options, but query 'q' has 1"):
        orderer.fitted(one, model).order(bare)
