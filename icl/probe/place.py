"""Do images stand in the places where they were put?

Comparing answers cannot reveal a server that always permutes images in the same way.

Three ways to find it, the first that the server offers. By cause, with log-probabilities of the prompt: a causal model
cannot show a change before the image that was changed. By cause, with the number of cached tokens: a cache ends at the
change. By ability: a model copies the name of the demonstration that shows the query's image.
"""

import random
from collections.abc import Callable, Sequence

from .checks import Prompts, check
from .distances import binomial_tail, fisher_fewer
from .instrument import Instrument, Status, Verdict
from .prompts import QUESTION, QUESTIONS, Prompt, replaced, to_messages, to_parts, turn
from .protocol import prompt_scores
from .server import RefusedError

NAMES = "ABCD"
OTHERS = "WXYZ"
WORDS = 24
"""Words after each image, so that caches in blocks of 16 tokens end at another block for each image."""
CACHED = 64
"""Cached tokens of a repeated prompt below which the server is taken to have no prefix cache."""
BLOCKS = 8
"""Pairs of images in the test by ability: four prompts each."""
NONSENSE = ("dax", "wug")
LEAST = 8
"""Answers with one of the two words that each case needs."""
P_VALUE = 0.005
Build = Callable[[str], Prompt]


@check(Prompts.WITH_IMAGES_IN_TURNS)
def place(p: Instrument) -> Verdict:
    """Images stand in the places where they were put."""
    new = "".join(random.choices("bcdfghjklm", k=6))  # the server's cache holds the prompts of the probe before

    def build(names: str) -> Prompt:
        filler = " ".join(f"word{i}" for i in range(WORDS))
        parts = [part for i, one in enumerate(to_parts(names)) for part in (one, f"{filler} {i}.")]
        return (turn("user", new, *parts, QUESTION),)

    return _by_prompt_scores(p, build) or _by_cached_tokens(p, build) or _by_ability(p)


def _by_prompt_scores(p: Instrument, build: Build) -> Verdict | None:
    """The first token of a prompt that feels image k."""

    def scores(names: str) -> list[float | None] | None:
        return prompt_scores(p, {"messages": to_messages(build(names), QUESTIONS[0])})

    base, again = scores(NAMES), scores(NAMES)
    if base is None or again is None:
        return None
    tolerance = max(10 * max(_gaps(base, again), default=0.0), 2e-3)
    starts: list[int | None] = []
    for k in range(len(NAMES)):
        others = [scores(replaced(NAMES, k, name)) for name in OTHERS[1:]]
        firsts = [
            next((j for j, gap in enumerate(_gaps(base, other)) if gap > tolerance), None)
            for other in others
            if other is not None and len(other) == len(base)
        ]
        starts.append(min((first for first in firsts if first is not None), default=None))
    listed = ", ".join("none" if start is None else str(start) for start in starts)
    return _judge(starts, f"another image k changes scores of the prompt from token {listed} on", build)


def _gaps(a: Sequence[float | None], b: Sequence[float | None]) -> list[float]:
    return [0.0 if x is None or y is None else abs(x - y) for x, y in zip(a, b, strict=True)]


def _by_cached_tokens(p: Instrument, build: Build) -> Verdict | None:
    """How many tokens of a prompt come from the cache after the same prompt with another image k."""

    def cached(names: str) -> int | None:
        body = {"messages": to_messages(build(names), QUESTIONS[0]), "max_tokens": 1, "temperature": 0}
        usage = p.server.post(body).get("usage") or {}
        count = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return count if isinstance(count, int) else None

    try:
        cached(NAMES)
        if (cached(NAMES) or 0) < CACHED:
            return None
        starts = [cached(replaced(NAMES, k, name)) for k, name in enumerate(OTHERS)]
    except RefusedError:
        return None
    if None in starts:
        return None
    listed = ", ".join(map(str, starts))
    return _judge(starts, f"with another image k the first {listed} tokens come from the cache", build)


def _judge(starts: Sequence[int | None], text: str, build: Build) -> Verdict | None:
    """What the first tokens that feel each image say. None if two images have one: texts may have been moved."""
    numbers = [start for start in starts if start is not None]
    if len(set(numbers)) < len(numbers):
        return None
    witness = (build(NAMES), build(replaced(NAMES, 0, OTHERS[0])))
    if len(numbers) < len(starts):
        return Verdict(Status.OPEN, text, witness)
    if numbers == sorted(numbers):
        return Verdict(Status.OK, text)
    order = " ".join(NAMES[k] for k in sorted(range(len(NAMES)), key=numbers.__getitem__))
    return Verdict(Status.RED, f"the model gets A B C D in the order {order}: {text}", witness)


def _by_ability(p: Instrument) -> Verdict:
    """Does the model copy the label of the demonstration that shows the query's image? Labels are made-up words.

    Case 0: the query shows the first demonstration's image; case 1: the second's. Shares of copied labels; C is chance:

        case 0  case 1
        > C     > C      ok
        < C     any      RED, images are exchanged; not if the other case is > C, since a model that always copies one
                         place has such shares on a correct server
        > C     other    RED, images of one place stand elsewhere; `other` differs from case 0 (Fisher), and is not < C
        C       C        cannot tell

    The cases are not pooled, which would hide an exchange.
    """
    hits, tries, others, witness = [0, 0], [0, 0], 0, None
    rng = random.Random(3)
    for _ in range(BLOCKS):
        pair = rng.sample("ABCDEFGHIJKLMNOPQR", 2)
        for image_names in (pair, pair[::-1]):
            labels = rng.sample(NONSENSE, 2)
            for case in (0, 1):
                prompt = _binding(image_names, labels, image_names[case])
                body = {"messages": to_messages(prompt, "what is this?"), "max_tokens": 4, "temperature": 0}
                answer = p.server.text(body).strip().lower()
                copied = next((word for word in NONSENSE if answer.startswith(word)), None)
                others += copied is None
                tries[case] += copied is not None
                hits[case] += copied == labels[case]
                if copied not in (None, labels[case]):
                    witness = prompt
    (a, b), (n, m) = hits, tries
    if min(n, m) < LEAST:
        text = f"{others} of {4 * BLOCKS} answers are no label of a demonstration: this model cannot show the order"
        return Verdict(Status.OPEN, text)
    text = f"the label of the query's image is copied {a} of {n} times if it comes first, {b} of {m} if second"
    p_above = [binomial_tail(a, n), binomial_tail(b, m)]
    p_below = [binomial_tail(n - a, n), binomial_tail(m - b, m)]
    if max(p_above) < P_VALUE:
        return Verdict(Status.OK, f"{text} (p = {max(p_above):.2g})")
    copies_one_place = min(p_above) < P_VALUE and min(p_below) < P_VALUE
    shown_by = () if witness is None else (witness,)
    # Each of these is the smaller of two p-values, so it is doubled.
    if not copies_one_place and 2 * min(p_below) < P_VALUE:
        return Verdict(Status.RED, f"{text} (p = {2 * min(p_below):.2g}): images are exchanged", shown_by)
    p_differ = 2 * min(fisher_fewer(a, n, b, m), fisher_fewer(b, m, a, n))
    if not copies_one_place and 2 * min(p_above) < P_VALUE and p_differ < P_VALUE:
        return Verdict(Status.RED, f"{text} (p = {p_differ:.2g}): images of one place stand elsewhere", shown_by)
    return Verdict(Status.OPEN, f"{text}: the model does not bind labels to images, or copies one place")


def _binding(names: Sequence[str], words: Sequence[str], query: str) -> Prompt:
    demonstrations = [
        one
        for part, word in zip(to_parts(names), words, strict=True)  # type: ignore[arg-type]
        for one in (turn("user", part, QUESTION), turn("assistant", word))
    ]
    return (*demonstrations, turn("user", *to_parts(query), QUESTION))
