"""Is each of several images read, in its order, with the text between them?"""

import itertools
import json
import random

from . import images
from .distances import FLOOR, fisher_fewer
from .images import NAMES
from .instrument import P_VALUE, Instrument, Prompts, Status, Verdict, check
from .prompts import QUESTION, ImagePart, Prompt, replaced, shots, to_parts, turn, user
from .server import RefusedError

MANY = (8, 16)


@check(Prompts.WITH_SEVERAL_IN_ONE_TURN)
def each(p: Instrument) -> Verdict:
    """Each image of one message matters."""
    return p.judge_effects(user, "ABC", "in a message")


@check(Prompts.WITH_IMAGES_IN_TURNS)
def turns(p: Instrument) -> Verdict:
    """Each image of few-shot turns matters."""
    return p.judge_effects(shots, "ABCD", "in turns")


@check(Prompts.WITH_SEVERAL_IN_ONE_TURN)
def order(p: Instrument) -> Verdict:
    """The order of images matters."""
    orders = ["".join(names) for names in itertools.permutations("ABC")][1:]
    sizes = {names: p.distance(user("ABC"), user(names)) for names in orders}
    same = [names for names, size in sizes.items() if size <= p.scale.tolerance]
    if not same:
        return Verdict(Status.OK, "all 6 orders of three images give different answers")
    text = f"{len(same)} of 5 other orders give the same answer: {' '.join(same)}"
    witness = (user("ABC"), user(same[0]))
    if p.server.of_texts:
        effects = p.effects(user, "ABC")
        changes, tries = sum(effect.changes for effect in effects), sum(effect.tries for effect in effects)
        p_value = fisher_fewer(5 - len(same), 5, changes, tries)
        text += f" (another image changes {changes} of {tries}, p = {p_value:.2g})"
        return p.red_if(p_value < P_VALUE, text, *witness)
    clear = sum(p.scale.expects(p.distance(user("ABC"), user("ABC".replace(name, "X")))) for name in "ABC")
    return p.red_if(clear >= 2 or (len(same) < 5 and p.scale.expects(max(sizes.values()))), text, *witness)


@check(Prompts.WITH_SEVERAL_IN_ONE_TURN)
def twice(p: Instrument) -> Verdict:
    """The same image twice is two images."""
    one, two, other = (p.ask(user(names)).tokens for names in ("A", "AA", "AB"))
    if one is not None and two is not None and other is not None and two <= one < other:
        text = "a repeated image is dropped: it adds no prompt tokens"
        return Verdict(Status.RED, text, (user("AA"), user("AB")))
    pairs = [("A", "AA"), ("AB", "AAB"), ("AAB", "ABB")]
    same = [pair for pair in pairs if not p.changed(user(pair[0]), user(pair[1]))]
    if not same:
        return Verdict(Status.OK, "a repeated image changes the answer")
    listed = "; ".join(f"{' '.join(a)} and {' '.join(b)}" for a, b in same)
    return p.red_if(p.scale.sees and len(same) >= 2, f"equal answers to {listed}", *map(user, same[0]))


@check(Prompts.WITH_SEVERAL_IN_ONE_TURN)
def between(p: Instrument) -> Verdict:
    """Text between images stays between them."""
    a, b = to_parts("AB")
    inside = (turn("user", "first", a, "second", b, QUESTION),)
    after = (turn("user", a, b, "first", "second", QUESTION),)
    before = (turn("user", "first", "second", a, b, QUESTION),)
    if p.changed(inside, after) and p.changed(inside, before):
        return Verdict(Status.OK, "text before, between and after images gives different answers")
    same = after if not p.changed(inside, after) else before
    expected = p.distance(inside, (turn("user", "third", a, "fourth", b, QUESTION),))
    if p.scale.expects(expected):
        text = (
            "text does not stay between images, so labels between them lose their images. "
            "Put each image into a turn of its own"
        )
        return Verdict(Status.RED, text, (inside, same))
    return Verdict(Status.OPEN, "moving the text does not change the answer", (inside, same))


@check(Prompts.WITH_SEVERAL_IN_ONE_TURN)
def many(p: Instrument) -> Verdict:
    """Up to 16 images are read or refused, never dropped."""
    status, notes = Status.OK, list[str]()
    witness: tuple[Prompt, ...] = ()
    none, one = p.ask(user("")).tokens, p.ask(user("A")).tokens
    for n in MANY:
        names = NAMES[:n]
        others = [(i, [user(replaced(names, i, name)) for name in "XYZ"]) for i in (0, n // 2, n - 1)]
        try:
            silent = [i for i, prompts in others if not any(p.changed(user(names), prompt) for prompt in prompts)]
            expected, tokens = p.distance(user(names), user(names[::-1])), p.ask(user(names)).tokens
        except RefusedError as error:
            notes.append(f"{n} refused ({str(error)[:70]})")
            break
        read = None
        if none is not None and one is not None and tokens is not None and one > none:
            read = (tokens - none) / (one - none)
        if read is not None and read < 0.7 * n:
            status, witness = Status.RED, (user(names[: n // 2]), user(names))
            notes.append(f"{n}: only {read:.0f} images are in the prompt")
        elif silent:
            if status is not Status.RED:
                status = Status.RED if p.scale.expects(expected) else Status.OPEN
                witness = (user(names), user(replaced(names, silent[0], "X")))
            notes.append(f"{n}: image {', '.join(str(i + 1) for i in silent)} does not change the answer")
        else:
            notes.append(f"{n} read")
    return Verdict(status, "; ".join(notes), witness)


# Is a request answered with its own images: again, after others, beside others?


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


# Do roles, answers, system prompts and early turns arrive unedited?


ASK = "What is this?"
DEMONSTRATIONS = 8


@check(Prompts.WITH_IMAGES_IN_TURNS)
def roles(p: Instrument) -> Verdict:
    """Roles and the text of demonstrations arrive unedited."""
    base, (a, b, c) = shots("ABC", ["dax", "wug"]), to_parts("ABC")
    changes = {
        "exchanged answers": shots("ABC", ["wug", "dax"]),
        "another first answer": shots("ABC", ["fep", "wug"]),
        "an answer as the user's words": (
            turn("user", a, ASK, "dax"),
            turn("user", b, ASK),
            turn("assistant", "wug"),
            turn("user", c, QUESTION),
        ),
        "one turn in place of five": (turn("user", a, ASK, "dax", b, ASK, "wug", c, QUESTION),),
    }
    sizes = {}
    for name, prompt in changes.items():
        try:
            sizes[name] = p.distance(base, prompt)
        except RefusedError:
            continue  # a template may refuse two turns of the user in a row, which is right
    without = [name for name, size in sizes.items() if size <= p.scale.tolerance]
    spaces = "" if p.changed(base, shots("ABC", [" dax\n", " wug\n"])) else "; spaces around answers are removed"
    if not without:
        return Verdict(Status.OK, f"answers, their order and their roles change the answer{spaces}")
    is_clear = p.scale.expects(max(sizes.values()))
    return p.red_if(is_clear, f"no effect: {', '.join(without)}{spaces}", base, changes[without[0]])


@check()
def system(p: Instrument) -> Verdict:
    """A system prompt arrives and keeps the images."""

    def prompt(text: str, names: str) -> Prompt:
        return (turn("system", text), *user(names))

    base = prompt("Answer in French.", "AB")
    others = {"the system prompt": prompt("Use one digit only.", "AB"), "image 1": prompt("Answer in French.", "CB")}
    try:
        without = [name for name, other in others.items() if not p.changed(base, other)]
    except RefusedError as error:
        return Verdict(Status.NOTE, f"refused: {error}")
    if not without:
        return Verdict(Status.OK, "both change the answer")
    return p.red_if(p.scale.sees, f"no effect: {', '.join(without)}", base, others[without[0]])


@check(Prompts.WITH_IMAGES_IN_TURNS)
def earlier(p: Instrument) -> Verdict:
    """The first of eight demonstrations still matters."""
    names = NAMES[: DEMONSTRATIONS + 1]
    base = shots(names)
    others = {
        "image": [shots(name + names[1:]) for name in "XY"],
        "answer": [shots(names, ["fep", *["dax"] * (DEMONSTRATIONS - 1)])],
    }
    try:
        sizes = {name: max(p.distance(base, other) for other in prompts) for name, prompts in others.items()}
        expected = p.distance(base, shots(names[:-1] + "X"))
    except RefusedError as error:
        return Verdict(Status.NOTE, f"refused: {error}")
    without = [name for name, size in sizes.items() if size <= p.scale.tolerance]
    if not without:
        return Verdict(Status.OK, "its image and its answer change the answer")
    witness = (base, others[without[0]][0])
    counts = [p.ask(prompt).tokens for prompt in (user("B"), shots("AB"), base)]
    numbers = [count for count in counts if count is not None]
    if len(numbers) == len(counts) and numbers[2] - numbers[1] < 0.7 * (DEMONSTRATIONS - 1) * (numbers[1] - numbers[0]):
        text = f"earlier turns are missing: {numbers[2]} prompt tokens with 8 demonstrations, {numbers[1]} with one"
        return Verdict(Status.RED, text, witness)
    text = f"its {' and its '.join(without)} does not change the answer"
    return p.red_if(p.scale.expects(expected) and min(sizes.values()) < p.scale.tolerance / 3, text, *witness)


@check()
def assistant(p: Instrument) -> Verdict:
    """An image in an assistant's turn is read or refused."""

    def prompt(name: str) -> Prompt:
        return (turn("user", "Draw one."), turn("assistant", *to_parts(name), "Here."), *user("B"))

    try:
        if p.changed(prompt("A"), prompt("C")):
            return Verdict(Status.OK, "read")
        dropped = not p.changed(prompt("A"), prompt(""))
    except RefusedError as error:
        return Verdict(Status.OK, f"refused: {str(error)[:90]}")
    text = "dropped without an error" if dropped else "counted, but which image does not matter"
    return p.red_if(p.scale.sees, text, prompt("A"), prompt("C"))
