"""Random choices of orderers and transforms depend on ids and texts, not on places."""

from collections import Counter
from typing import Any

import pytest
from PIL import Image as PILImage
from scipy.stats import chisquare

from icl.images import Image
from icl.registry import build
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Context, Demo, Example

WORDS = {"a": "cat", "b": "dog", "c": "cat", "d": "owl", "e": "dog", "f": "fox"}


def _image(name: str) -> Image:
    return Image.from_pil(PILImage.new("RGB", (2, 2), (ord(name[0]) % 256, 0, 0)), name)


def _example(name: str) -> Example:
    word = WORDS.get(name, name)
    return Example(name, (_image(name),), f"{name}?", (word,), label=word)


def _context(ids: str, query: str = "q", seed: int = 0) -> Context:
    """Demonstrations with these one-letter ids, the best first. A new id of the middle changes the ranks behind it."""
    demos = tuple(Demo(_example(name), 0.5, rank) for rank, name in enumerate(ids))
    return Context(Example(query, (_image("?"),), "which?", ()).query, demos, StreamKey(seed, query))


def _ids(context: Context) -> str:
    return "".join(demo.example.id for demo in context.demos)


def _answers(node: Any, context: Context) -> dict[str, str]:
    return {demo.example.id: demo.example.answer for demo in build("transform", node).transform(context).demos}


def test_a_random_order_keeps_the_relative_order_of_the_demonstrations_of_both_sets() -> None:
    for query in map(str, range(20)):
        order = _ids(build("orderer", "random").order(_context("abde", query)))
        more = _ids(build("orderer", "random").order(_context("axbde", query)))
        assert more.replace("x", "") == order


def test_a_random_first_label_does_not_depend_on_the_ranks() -> None:
    node = {"name": "alternating", "start": "random"}
    for query in map(str, range(20)):
        orders = {_ids(build("orderer", node).order(_context(ids, query))) for ids in ("ab", "ba")}
        assert len(orders) == 1


def test_the_symbol_of_an_answer_does_not_depend_on_other_answers() -> None:
    assert _answers("symbols", _context("abd")).items() <= _answers("symbols", _context("afbd")).items()
    words = {"name": "symbols", "words": [f"word{i}" for i in range(400)]}
    assert _answers(words, _context("abd")).items() <= _answers(words, _context("afbd")).items()


def test_symbols_of_equal_draws_stay_distinct_and_every_map_is_equally_likely() -> None:
    node = {"name": "symbols", "words": ["x1", "x2", "x3"]}
    maps = Counter(tuple(_answers(node, _context("abd", str(i))).values()) for i in range(1200))
    assert len(maps) == 6
    assert chisquare(list(maps.values())).pvalue > 0.001


def test_which_labels_are_noisy_depends_on_the_ids() -> None:
    node = {"name": "noisy_labels", "share": 0.5}
    assert _answers(node, _context("abde")) == _answers(node, _context("edba"))
    shares = Counter(
        name for i in range(400) for name, word in _answers(node, _context("abde", str(i))).items()
        if word != WORDS[name]
    )  # fmt: skip
    assert chisquare([shares[name] for name in "abde"]).pvalue > 0.001


@pytest.mark.parametrize("how", ["permuted", "random"])
def test_new_answers_depend_on_the_ids_not_on_the_ranks(how: str) -> None:
    node = {"name": "answers", "how": how}
    if how == "random":
        assert _answers(node, _context("abd")) == _answers(node, _context("dba"))
    else:
        assert _answers(node, _context("abdf")) == _answers(node, _context("fdba"))


@pytest.mark.parametrize(("transform", "field"), [("images", "images"), ("questions", "question")])
def test_permuted_inputs_depend_on_the_ids_not_on_the_ranks(transform: str, field: str) -> None:
    def moved(ids: str) -> dict[str, Any]:
        done = build("transform", {"name": transform, "how": "permuted"}).transform(_context(ids))
        return {demo.example.id: getattr(demo.example, field) for demo in done.demos}

    assert {name: repr(value) for name, value in moved("abcdef").items()} == {
        name: repr(value) for name, value in moved("fedcba").items()
    }


def test_a_swapped_image_changes_only_if_a_new_member_of_the_pool_is_drawn() -> None:
    def swapped(pool: str, query: str) -> str:
        fitted = build("transform", {"name": "images", "how": "swapped"}).fitted(Pool(tuple(map(_example, pool))), None)
        (demo,) = fitted.transform(_context("a", query)).demos
        return str(demo.example.images[0].identity)

    changed = 0
    for query in map(str, range(80)):
        before, after = swapped("abcdefgh", query), swapped("ihgfedcba", query)
        assert after in (before, _image("i").identity)
        changed += after != before
    assert 2 <= changed <= 25  # one of eight, in expectation 10


def test_probes_of_an_order_depend_on_the_ids() -> None:
    from prompts.orderers.model_orders import Entropy, FittedOrderer, Trial

    orderer: Any = Entropy(probes=3)

    def probes(pool: str) -> list[str]:
        no_model: Any = None
        fitted = FittedOrderer(orderer, Pool(tuple(map(_example, pool))), no_model)
        context = _context("ab")
        return [query.id for query in orderer._probes(Trial(fitted, context, ("cat", "dog"), [context.demos]))]

    before = probes("abcdefgh")
    assert probes("hgfedcba") == before
    after = probes("abcdefghi")
    assert after == before or [name for name in after if name != "i"] == before[:2]


def test_an_invented_symbol_has_three_consonants_and_two_vowels() -> None:
    for word in _answers("symbols", _context("abd")).values():
        assert [letter in "aeiou" for letter in word] == [False, True, False, True, False]
