"""Do images stand in the places where they were put? A fixed permutation keeps every relation between answers.

Three ways to find it, the first that the server offers. By cause, with log-probabilities of the prompt: a causal model
cannot show a change before the image that was changed. By cause, with the number of cached tokens: a cache ends at the
change. By ability: a model copies the name of the demonstration that shows the query's image.
"""

import random
from collections.abc import Callable, Sequence

from .checks import check
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
BLOCKS = 8
NONSENSE = ("dax", "wug")
LEAST = 8
P_VALUE = 0.005
Build = Callable[[str], Prompt]


@check(few_shot=True)
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
    """What the places say where each image begins to matter. None if two of them are one: texts may have been moved."""
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
    """Whose name is copied? Read in place, the query's is, whether its image is the first or second demonstration's.

    A permutation moves the query's image or exchanges names, so that one of the two cases falls to chance or below it;
    pooled, they would hide this. A model that always copies one place has one case at 1 and the other at 0, which is
    no fault of the server.
    """
    hits, tries, others, witness = [0, 0], [0, 0], 0, None
    rng = random.Random(3)
    for _ in range(BLOCKS):
        pair = rng.sample("ABCDEFGHIJKLMNOPQR", 2)
        for names in (pair, pair[::-1]):
            words = rng.sample(NONSENSE, 2)
            for case in (0, 1):
                prompt = _binding(names, words, names[case])
                body = {"messages": to_messages(prompt, "what is this?"), "max_tokens": 4, "temperature": 0}
                answer = p.server.text(body).strip().lower()
                copied = next((word for word in NONSENSE if answer.startswith(word)), None)
                others += copied is None
                tries[case] += copied is not None
                hits[case] += copied == words[case]
                if copied not in (None, words[case]):
                    witness = prompt
    (a, b), (n, m) = hits, tries
    if min(n, m) < LEAST:
        text = f"{others} of {4 * BLOCKS} answers are no name of a demonstration: this model cannot show the order"
        return Verdict(Status.OPEN, text)
    text = f"the name of the query's image is copied {a} of {n} times if it comes first, {b} of {m} if second"
    high = [binomial_tail(a, n), binomial_tail(b, m)]
    low = [binomial_tail(n - a, n), binomial_tail(m - b, m)]
    if max(high) < P_VALUE:
        return Verdict(Status.OK, f"{text} (p = {max(high):.2g})")
    one_place = min(high) < P_VALUE and min(low) < P_VALUE
    shown_by = () if witness is None else (witness,)
    if not one_place and min(low) < P_VALUE / 2:
        return Verdict(Status.RED, f"{text} (p = {2 * min(low):.2g}): images are exchanged", shown_by)
    difference = 2 * min(fisher_fewer(a, n, b, m), fisher_fewer(b, m, a, n))
    if not one_place and min(high) < P_VALUE / 2 and difference < P_VALUE:
        return Verdict(Status.RED, f"{text} (p = {difference:.2g}): images of one place stand elsewhere", shown_by)
    return Verdict(Status.OPEN, f"{text}: the model does not bind names to images, or copies one place")


def _binding(names: Sequence[str], words: Sequence[str], query: str) -> Prompt:
    demonstrations = [
        one
        for part, word in zip(to_parts(names), words, strict=True)  # type: ignore[arg-type]
        for one in (turn("user", part, QUESTION), turn("assistant", word))
    ]
    return (*demonstrations, turn("user", *to_parts(query), QUESTION))
