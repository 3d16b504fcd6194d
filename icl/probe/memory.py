"""Is a request answered with its own images: again, after others, beside others?"""

import json
import random

from . import images
from .checks import Prompts, check
from .distances import FLOOR
from .instrument import Instrument, Status, Verdict
from .prompts import QUESTION, ImagePart, Prompt, shots, turn, user

NUMBER = 600
"""A key of 16 bits is met by two of so many images with a probability of .94."""
SMALL = 64
FIRST_SEED = 1000


@check(Prompts.WITH_IMAGES)
def repeat(p: Instrument) -> Verdict:
    """The same request gives the same answer."""
    worst = max(p.repeat_distances)
    text = f"3 repeats of 3 requests differ by up to {worst:.2g}; another image changes {p.scale.signal:.2g}"
    floor = 0.0 if p.server.of_texts else FLOOR
    if worst > p.scale.signal / 2 and worst > 5 * p.usual_distance + floor:  # one answer stands out: this is not noise
        prompt = (user("A"), user("C"), shots("ABC"))[p.repeat_distances.index(worst)]
        return Verdict(Status.RED, f"{text}: the answer depends on more than the request", (prompt, prompt))
    return Verdict(Status.OPEN if 9 * p.scale.noise > p.scale.signal else Status.OK, text)


@check(Prompts.WITH_IMAGES)
def cache(p: Instrument) -> Verdict:
    """Requests with the same text keep their images, in any turn."""
    names = images.NAMES[: 5 if p.server.of_texts else 8]
    rng, wrong = random.Random(7), list[str]()
    for build, some, rounds in ((user, names, 2), (lambda name: shots("AB" + name), names[:4], 1)):
        own = {name: p.fresh(build(name)) for name in some}
        for _ in range(rounds):
            line = rng.sample(some, len(some))
            wrong += p.mismatched([p.fresh(build(name)) for name in line], line, own)
    number = 2 * len(names) + 4
    if wrong:
        first, _, other = wrong[0].partition(" as ")
        witness = (user(other if len(other) == 1 else first), user(first))
        text = f"{len(wrong)} of {number} answers belong to another image: {', '.join(wrong[:4])}"
        return Verdict(Status.RED, text, witness)
    twins = tuple(user([ImagePart(url)]) for url in images.near_twins())
    if not p.scale.changed(*(p.fresh(prompt) for prompt in twins)):
        text = "two images that differ in one quarter give the same answer: a part of the file is hashed or read"
        return p.red_if(p.scale.sees, text, *twins)
    status = Status.OK if p.scale.signal > p.scale.tolerance else Status.OPEN
    return Verdict(status, f"{number} requests in shuffled order; images that differ in one quarter differ")


@check(Prompts.WITH_IMAGES)
def together(p: Instrument) -> Verdict:
    """Requests at the same time give what each gives alone."""
    names, pairs = images.NAMES[:8], ["AB", "BA", "CD", "DC", "EF", "FE", "GH", "HG"]
    wrong, number = list[str](), 0
    for build, some, rounds in ((user, list(names), 2), (shots, pairs, 1)):
        alone = {name: p.fresh(build(name)) for name in some}
        for _ in range(rounds):
            answers = p.server.ask_at_once([build(name) for name in some])
            wrong += p.mismatched(answers, some, alone)
            number += len(some)
    if wrong:
        text = f"{len(wrong)} of {number} answers to parallel requests are others: {', '.join(wrong[:4])}"
        return Verdict(Status.RED, text, tuple(user(name) for name in "AB"))
    status = Status.OK if p.scale.signal > p.scale.tolerance else Status.OPEN
    return Verdict(status, f"{number} requests, 8 at a time")


@check(deep=True)
def hashes(p: Instrument) -> Verdict:
    """600 images have 600 answers."""
    if p.scale.of_texts or p.scale.noise > 1e-4 or not p.scale.sees:
        return Verdict(Status.ABSENT, "needs log-probabilities that repeat")
    seeds_of: dict[str, list[int]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + NUMBER):
        top = p.server.ask(_small(seed)).top
        seeds_of.setdefault(json.dumps(top, sort_keys=True), []).append(seed)
    equal = [seeds for seeds in seeds_of.values() if len(seeds) > 1]
    text = f"{NUMBER} images, {len(equal)} pairs with equal answers"
    if equal:
        witness = tuple(_small(seed) for seed in equal[0][:2])
        return Verdict(Status.RED, f"{text} to the last digit: a cache takes an image for another", witness)
    return Verdict(Status.OK, text)


def _small(seed: int) -> Prompt:
    return (turn("user", ImagePart(images.data_url(images.draw(seed, SMALL))), QUESTION),)
