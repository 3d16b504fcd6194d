"""Do images stand in the places where they were put?

Comparing answers cannot reveal a server that always permutes images in the same way.

Three ways to find it, tried in this order until one decides. By cause, with log-probabilities of the prompt: a causal
model cannot show a change before the image that was changed. By cause, with the number of cached tokens: a cache ends
at the change. By ability: a model copies the label of the demonstration that shows the query's image.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .distances import binomial_tail, fisher_fewer
from .instrument import Instrument, Prompts, Status, Verdict, check
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
"""Answers with one of the two labels that are needed for each place of the query's image."""
P_VALUE = 0.005
Build = Callable[[str], Prompt]


@check(Prompts.WITH_IMAGES_IN_TURNS)
def place(p: Instrument) -> Verdict:
    """Images stand in the places where they were put."""
    # The server's cache holds the prompts of earlier probes, and those of the first way while the second one runs.
    builds = [partial(_build, "".join(random.choices("bcdfghjklm", k=6))) for _ in range(2)]
    return _by_prompt_scores(p, builds[0]) or _by_cached_tokens(p, builds[1]) or _by_ability(p)


def _build(new: str, names: str) -> Prompt:
    """A prompt with a new word, then images and words in turns."""
    filler = " ".join(f"word{i}" for i in range(WORDS))
    parts = [part for i, one in enumerate(to_parts(names)) for part in (one, f"{filler} {i}.")]
    return (turn("user", new, *parts, QUESTION),)


def _by_prompt_scores(p: Instrument, build: Build) -> Verdict | None:
    """From the first token of a prompt whose score changes with image k.

    None if two images start at the same token: then the server may have moved the texts, and this says nothing.
    """

    def scores(names: str) -> list[float | None] | None:
        return prompt_scores(p, {"messages": to_messages(build(names), QUESTIONS[0])})

    base, again = scores(NAMES), scores(NAMES)
    if base is None or again is None:
        return None
    tolerance = max(10 * max(_gaps(base, again), default=0.0), 2e-3)
    starts: list[int | None] = []
    for k in range(len(NAMES)):
        others = [scores(replaced(NAMES, k, name)) for name in OTHERS[:-1]]
        firsts = [
            next((j for j, gap in enumerate(_gaps(base, other)) if gap > tolerance), None)
            for other in others
            if other is not None and len(other) == len(base)
        ]
        starts.append(min((first for first in firsts if first is not None), default=None))
    listed = ", ".join("none" if start is None else str(start) for start in starts)
    return _judge(
        starts,
        "no score of the prompt changes with image k"
        if set(starts) == {None}
        else f"another image k changes scores of the prompt from token {listed} on",
        build,
    )


def _gaps(a: Sequence[float | None], b: Sequence[float | None]) -> list[float]:
    return [0.0 if x is None or y is None else abs(x - y) for x, y in zip(a, b, strict=True)]


def _by_cached_tokens(p: Instrument, build: Build) -> Verdict | None:
    """From the number of cached tokens of a prompt with another image k, after the unchanged prompt was sent.

    None if two images start at the same token: then the server may have moved the texts, and this says nothing.
    """

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
    listed = ", ".join(map(str, starts))
    return (
        None
        if None in starts
        else _judge(starts, f"with another image k the first {listed} tokens come from the cache", build)
    )


def _judge(starts: Sequence[int | None], text: str, build: Build) -> Verdict | None:
    """What the first tokens that change with each image say. text: the numbers, for the user.

    None if two images start at the same token: then the server may have moved the texts, and this says nothing.
    """
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


@dataclass
class LabelCounts:
    """Answers to prompts whose query shows the image of one demonstration, the first or the second.

    Attributes:
        right: Answers with the label of that demonstration.
        answers: Answers with the label of either demonstration.
    """

    right: int = 0
    answers: int = 0


def _by_ability(p: Instrument) -> Verdict:
    """Does the model give the label of the demonstration that shows the query's image?

    A prompt shows two images with made-up labels, then one of the images again as the query:

        image A: dax    image B: wug    image A: ?    the query shows the first image; right is dax
        image A: dax    image B: wug    image B: ?    the query shows the second image; right is wug

    What the shares of right labels say. Chance is 1/2. "Above" and "below" mean p < P_VALUE in the rows OK and
    OPEN. In the rows RED they mean 2 p < P_VALUE, since these choose the smaller of two p. The two columns may change
    places:

        query first   query second   verdict
        above chance  above chance   OK: each image stands where it was put
        below chance  not above      RED: the images are exchanged, since the model gives the other image's label
        above chance  at chance      RED if the two shares differ (Fisher): images of one place stand elsewhere
        above chance  below chance   OPEN: the model copies the label of one place, whatever the query shows
        at chance     at chance      OPEN: the model does not bind labels to images

    The two shares are not pooled: each would hide what the other shows.
    """
    first, second, others, wrong = _ask_for_labels(p)
    if min(first.answers, second.answers) < LEAST:
        text = f"{others} of {4 * BLOCKS} answers are no label of a demonstration: this model cannot show the order"
        return Verdict(Status.OPEN, text)
    text = (
        f"the label of the query's image is copied {first.right} of {first.answers} times if it comes first, "
        f"{second.right} of {second.answers} if second"
    )
    p_above = [binomial_tail(one.right, one.answers) for one in (first, second)]
    p_below = [binomial_tail(one.answers - one.right, one.answers) for one in (first, second)]
    if max(p_above) < P_VALUE:
        return Verdict(Status.OK, f"{text} (p = {max(p_above):.2g})")
    copies_one_place = min(p_above) < P_VALUE and min(p_below) < P_VALUE
    if not copies_one_place:
        witness = () if wrong is None else (wrong,)
        # Each p from here on is the smaller of two, so it is doubled.
        if 2 * min(p_below) < P_VALUE:
            return Verdict(Status.RED, f"{text} (p = {2 * min(p_below):.2g}): images are exchanged", witness)
        counts = (first.right, first.answers), (second.right, second.answers)
        p_differ = 2 * min(fisher_fewer(*counts[0], *counts[1]), fisher_fewer(*counts[1], *counts[0]))
        if 2 * min(p_above) < P_VALUE and p_differ < P_VALUE:
            elsewhere = f"{text} (p = {p_differ:.2g}): images of one place stand elsewhere"
            return Verdict(Status.RED, elsewhere, witness)
    return Verdict(Status.OPEN, f"{text}: the model does not bind labels to images, or copies one place")


def _ask_for_labels(p: Instrument) -> tuple[LabelCounts, LabelCounts, int, Prompt | None]:
    """The answers if the query shows the first image, and the second; how many are no label; the prompt of a wrong one.

    Each pair of images is asked about in both orders, with labels drawn anew.
    """
    cases, others, wrong = (LabelCounts(), LabelCounts()), 0, None
    rng = random.Random(3)
    for _ in range(BLOCKS):
        pair = rng.sample("ABCDEFGHIJKLMNOPQR", 2)
        for image_names in (pair, pair[::-1]):
            labels = rng.sample(NONSENSE, 2)
            for case, name, right in zip(cases, image_names, labels, strict=True):
                prompt = _binding(image_names, labels, name)
                body = {"messages": to_messages(prompt, "what is this?"), "max_tokens": 4, "temperature": 0}
                answer = p.server.text(body).strip().lower()
                copied = next((word for word in NONSENSE if answer.startswith(word)), None)
                if copied is None:
                    others += 1
                    continue
                case.answers += 1
                case.right += copied == right
                wrong = wrong if copied == right else prompt
    return *cases, others, wrong


def _binding(names: Sequence[str], words: Sequence[str], query: str) -> Prompt:
    demonstrations = [
        one
        for part, word in zip(to_parts(names), words, strict=True)  # type: ignore[arg-type]
        for one in (turn("user", part, QUESTION), turn("assistant", word))
    ]
    return (*demonstrations, turn("user", *to_parts(query), QUESTION))
