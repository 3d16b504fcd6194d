"""Is each of several images read, in its order, with the text between them?"""

import itertools

from .checks import Prompts, check
from .distances import fisher_fewer
from .images import NAMES
from .instrument import P_VALUE, Instrument, Status, Verdict
from .prompts import QUESTION, Prompt, replaced, shots, to_parts, turn, user
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
