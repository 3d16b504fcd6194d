"""Do roles, answers, system prompts and early turns arrive unedited?"""

from .checks import Prompts, check
from .images import NAMES
from .instrument import Instrument, Status, Verdict
from .prompts import QUESTION, Prompt, shots, to_parts, turn, user
from .server import RefusedError

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
