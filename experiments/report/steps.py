"""The steps of one answer side by side: what each branch said, its weight, how far it was from the reference.

Read from what `decoding.engine.trace.compact` stored; printed so that 80 columns are enough for three columns of
tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.stats.formatting import format_count, format_share, format_signed
from icl.errors import strip_control_characters

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

END_OF_TEXT = "(end)"
"""What stands for the token that ends an answer."""

COLUMN_WIDTH = 25
"""Characters that a branch takes; as many stand side by side as the terminal holds."""


@dataclass(frozen=True)
class BranchStep:
    """One branch at one step, or the combined scores. top: (word, probability), the best first. entropy: nats.

    js_divergence: the divergence from the reference, nats. weight: in the combined scores. None: not recorded.
    """

    name: str
    top: tuple[tuple[str, float], ...]
    entropy: float
    js_divergence: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class DecodingStep:
    """chosen, reference: the word that was taken and the reference's best. survivors: tokens that the mask kept."""

    chosen: str
    reference: str
    survivors: int | None
    changed: bool | None
    branches: tuple[BranchStep, ...]


def read_steps(steps: Any, trace: Any) -> list[DecodingStep]:
    """The steps of a sample; none where nothing was kept. trace: its numbers (survivors and changed are read)."""
    if not isinstance(steps, Mapping) or not steps.get("chosen"):
        return []
    numbers = trace if isinstance(trace, Mapping) else {}
    words = [token_text(word) for word in steps["words"]]
    count = len(steps["chosen"])
    weights = steps.get("weights") or [None]
    decoded = []
    for i in range(count):
        tops = [
            tuple((words[place], p) for place, p in zip(*row, strict=True))
            for row in zip(steps["top"][i], steps["p"][i], strict=True)
        ]
        last = len(tops) - 1
        own = weights[i] if len(weights) == count else weights[0]
        divergences = [None, *(steps["js_divergence"][i] if "js_divergence" in steps else ()), None]
        branches = tuple(
            BranchStep(
                _name(b, last),
                top,
                steps["entropy"][i][b],
                divergences[b] if 0 < b < last else None,
                own[b] if own and b < last else None,
            )
            for b, top in enumerate(tops)
        )
        survivors, changed = (_at(numbers.get(name), i) for name in ("survivors", "changed"))
        decoded.append(
            DecodingStep(
                words[steps["chosen"][i]],
                tops[0][0][0] if tops[0] else "",
                None if survivors is None else int(survivors),
                None if changed is None else bool(changed),
                branches,
            )
        )
    return decoded


def token_text(word: str) -> str:
    """A token's text on one line, without control characters; blanks are made visible."""
    if not word:
        return END_OF_TEXT
    plain = strip_control_characters(word).replace("\n", "⏎")
    return plain if plain.strip() else "␣" * len(plain)


def print_steps(steps: Sequence[DecodingStep], console: "Console") -> None:
    """A block a step: what was taken, then the branches in columns."""
    console.print()
    for number, step in enumerate(steps):
        console.print(_head(number, step), soft_wrap=True)
        for line in _columns(step.branches, console.width):
            console.print(line, soft_wrap=True)
        console.print()
    if len(steps[0].branches) > 2:
        note = "×: weight in the combined scores. JS: Jensen-Shannon divergence from the reference, in nats."
        console.print(note, style="dim", highlight=False)


def _head(number: int, step: DecodingStep) -> "Text":
    from rich.text import Text

    head = Text(f"step {number}  ", "dim").append(step.chosen, "bold")
    if step.changed:
        head.append(f"  (the reference: {step.reference})", "yellow")
    if step.survivors is not None:
        verb = "survives" if step.survivors == 1 else "survive"
        head.append(f"  {format_count(step.survivors, 'token')} {verb}", "dim")
    return head


def _columns(branches: Sequence[BranchStep], width: int) -> "Iterator[Text]":
    from rich.text import Text

    columns = max(1, (width - 2) // COLUMN_WIDTH)
    for start in range(0, len(branches), columns):
        part = [_lines(one) for one in branches[start : start + columns]]
        for row in range(max(map(len, part))):
            line = "".join((lines[row] if row < len(lines) else "").ljust(COLUMN_WIDTH) for lines in part)
            yield Text(f"  {line.rstrip()}", "dim" if row in (0, max(map(len, part)) - 1) else "")


def _lines(one: BranchStep) -> list[str]:
    """Of one column: name and weight, a line a token, entropy and divergence."""
    weight = "" if one.weight is None else f" ×{format_signed(one.weight, 2).lstrip('+')}"
    room = COLUMN_WIDTH - 9
    tokens = [f"{_cut(word, room)} {format_share(p):>5}" for word, p in one.top]
    divergence = "" if one.js_divergence is None else f" JS {format_share(one.js_divergence)}"
    return [f"{one.name}{weight}", *tokens, f"entropy {format_share(one.entropy, 2)}{divergence}"]


def _cut(word: str, room: int) -> str:
    return (word if len(word) <= room else f"{word[: room - 1]}…").ljust(room)


def _name(branch: int, last: int) -> str:
    return "reference" if branch == 0 else "combined" if branch == last else f"branch {branch}"


def _at(values: Any, step: int) -> float | None:
    return values[step] if isinstance(values, list | tuple) and step < len(values) else None
