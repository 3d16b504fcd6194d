"""Training and test sequences: lists of turns whose last one is the query."""

from collections.abc import Sequence

import numpy as np

from icl.tasks.generated import wording as w
from icl.tasks.generated.world import COLORS, SHAPES, TRAINING_CONCEPTS, Concept
from lab.tiny.index import PoolIndex
from lab.tiny.layout import TokenTurn
from lab.tiny.questions import NUMBERS, QUESTIONS, YES_NO, caption, choose
from lab.tiny.vocabulary import encode

Rng = np.random.Generator
NAMES = tuple(encode(name) for name in w.NONCE)
OTHER_LABELS = tuple(
    tuple(encode(label) for label in labels)
    for labels in (
        [str(i) for i in range(20)],
        "abcdefgh",
        tuple(COLORS),
        SHAPES,
        ("yes", "no", "one", "class", "small", "large", "left"),
    )
)
BINDING_SHARES = {
    "pair": 0.25,
    "near": 0.15,
    "shape": 0.07,
    "color": 0.06,
    "texture": 0.17,
    "size": 0.17,
    "count": 0.13,
}


def bind(  # noqa: PLR0917
    rng: Rng,
    index: PoolIndex,
    ways: int,
    turns: int,
    kind: str = "pair",
    hint: bool = False,
    concepts: Sequence[Concept] = TRAINING_CONCEPTS,
    labels: Sequence[tuple[int, ...]] = NAMES,
    balanced: bool = False,
) -> list[TokenTurn]:
    """Made-up names for concepts (or values of one attribute), sampled for every sequence.

    An answer is graded where an earlier turn has named the same concept. `near`: concepts that share a color or a
    shape with one of them. `balanced` (for tests): each way as often as any other among the demonstrations. Otherwise
    one sequence in six shows the query's way mostly, as retrieval by likeness does.
    """
    if kind in ("pair", "near"):
        allowed = list(concepts)
        if kind == "near":
            color, shape = choose(rng, allowed)
            allowed = [p for p in allowed if p[0] == color or p[1] == shape]
        ways = min(ways, len(allowed))
        pools = [index.pair[allowed[i]] for i in rng.permutation(len(allowed))[:ways]]
    else:
        values = list(index.by[kind].values())
        ways = min(ways, len(values))
        pools = [values[i] for i in rng.permutation(len(values))[:ways]]
    names = tuple(labels[i] for i in rng.permutation(len(labels))[:ways])
    ways = len(names)
    if balanced:
        demos = rng.permutation(np.tile(np.arange(ways), turns // ways + 1)[: turns - 1])
        order = [*demos.tolist(), int(rng.integers(ways))]
    else:
        order = rng.integers(0, ways, turns).tolist()
        if rng.random() < 1 / 6:
            mostly = rng.random() * 0.4 + 0.6
            order = [order[-1] if rng.random() < mostly else way for way in order]
    templates = w.HINTED_BINDING_QUESTIONS if hint and kind in w.ATTRIBUTE_WORDS else w.BINDING_QUESTIONS
    question = encode(choose(rng, templates).format(attribute=w.ATTRIBUTE_WORDS.get(kind, "")))
    earlier_ways: set[int] = set()
    out = []
    for way in order:
        out.append(TokenTurn(int(choose(rng, pools[way])), question, names[way], way in earlier_ways, True, names))
        earlier_ways.add(way)
    return out


def attribute(rng: Rng, index: PoolIndex, turns: int, name: str | None = None) -> list[TokenTurn]:
    """One question whose attribute follows from the demonstrations."""
    name = name or choose(rng, w.ATTRIBUTES)
    question, options = encode(choose(rng, w.ATTRIBUTE_QUESTIONS)), tuple(encode(v) for v in w.VALUES[name])
    kind = "single"
    if name != "size" and rng.random() < 0.15:
        kind = "count"
    images = rng.choice(index.kind[kind], turns).tolist()
    return [TokenTurn(p, question, options[index.fact(p, name)], j > 0, options=options) for j, p in enumerate(images)]


def operator(rng: Rng, index: PoolIndex, turns: int, names_operator: bool = False) -> list[TokenTurn]:
    """An image "a ? b" and one question; the operator follows from the demonstrations or from the question."""
    name = choose(rng, w.OPERATORS)
    question = encode(
        choose(rng, w.NAMED_OPERATOR_QUESTIONS if names_operator else w.OPERATOR_QUESTIONS).format(operator=name)
    )
    images = rng.choice(index.kind["ordered"], turns).tolist()
    return [
        TokenTurn(p, question, encode(str(index.result(p, name))), names_operator or j > 0)
        for j, p in enumerate(images)
    ]


def bare(rng: Rng, index: PoolIndex, turns: int) -> list[TokenTurn]:
    """A color or a shape as the question; the demonstrations determine whether it asks for number or presence."""
    counts = rng.random() < 0.5
    out = []
    for j in range(turns):
        image = int(rng.choice(index.kind["scene"]))
        at, words = (0, tuple(COLORS)) if rng.random() < 0.5 else (1, SHAPES)
        word = str(choose(rng, index.groups[image])[at]) if rng.random() < 0.6 else choose(rng, words)
        n = index.fact(image, f"n_{word}")
        answer = NUMBERS[n] if counts else YES_NO[n == 0]
        out.append(TokenTurn(image, encode(choose(rng, w.BARE_QUESTIONS).format(word=word)), answer, j > 0))
    return out


def ask(rng: Rng, index: PoolIndex, turns: int, name: str | None = None) -> list[TokenTurn]:
    """Questions that need no demonstration, of one kind or several; sometimes with images similar to the query's."""
    names, shares = tuple(QUESTIONS), np.array([share for share, _, _ in QUESTIONS.values()])
    mixed = name is None and rng.random() < 0.4
    name = name or names[int(rng.choice(len(names), p=shares / shares.sum()))]
    plain = [n for n in names if n.startswith("plain")]
    out = []
    same_concept = index.pair[choose(rng, TRAINING_CONCEPTS)] if rng.random() < 0.25 else None
    for _ in range(turns):
        if mixed:
            name = (
                choose(rng, plain)
                if name.startswith("plain")
                else names[int(rng.choice(len(names), p=shares / shares.sum()))]
            )
        kinds, make = QUESTIONS[name][1:]
        near = same_concept if name.startswith("plain") else None
        out.append(make(rng, index, int(rng.choice(index.kind[choose(rng, kinds)] if near is None else near))))
    return out


def describe(rng: Rng, index: PoolIndex, turns: int) -> list[TokenTurn]:
    """Captions of scenes, sometimes of images of one concept."""
    kind = "scene" if rng.random() < 0.9 else "count"
    question = choose(rng, w.CAPTION_QUESTIONS)
    return [
        TokenTurn(p, encode(question), caption(rng, index, p).answer)
        for p in rng.choice(index.kind[kind], turns).tolist()
    ]


def copy(rng: Rng, turns: int) -> list[TokenTurn]:
    """A made-up word that means another one, without images; it counts once it was explained."""
    keys = int(rng.integers(2, 7))
    chosen = rng.permutation(len(NAMES))[: 2 * keys].tolist()
    tail, explained_keys, out = encode(choose(rng, ("?", "means?", "goes to?"))), set(), []
    for key in rng.integers(0, keys, turns).tolist():
        out.append(TokenTurn(-1, NAMES[chosen[2 * key]] + tail, NAMES[chosen[2 * key + 1]], key in explained_keys))
        explained_keys.add(key)
    return out
