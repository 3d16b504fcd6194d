"""The steps of one answer with their branches side by side: top tokens, weights, and divergence from the reference.

The data come from `decoding.engine.trace.compact`. Three branches fit into 80 columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.stats import format_count, format_share, format_signed
from icl import rich, strip_control_characters

END_OF_TEXT = "(end)"
"""The text of the token that ends an answer."""

COLUMN_WIDTH = 25
"""The width of a branch. The terminal's width decides how many are side by side."""


@dataclass(frozen=True)
class BranchStep:
    """One branch at one step, or the combined scores.

    Attributes:
        name: 'reference', 'branch 1' or 'combined'.
        top: (token, probability), the best first.
        entropy: The entropy in nats.
        js_divergence: The Jensen-Shannon divergence from the reference in nats, if it was recorded.
        weight: The weight in the combined scores, if there are weights.
    """

    name: str
    top: tuple[tuple[str, float], ...]
    entropy: float
    js_divergence: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class DecodingStep:
    """One step of an answer.

    Attributes:
        chosen: The chosen token.
        reference: The best token of the reference.
        plausible_tokens: The number of tokens that the mask keeps.
        changed: Whether the chosen token differs from the reference's.
        branches: The branches, then the combined scores.
    """

    chosen: str
    reference: str
    plausible_tokens: int | None
    changed: bool | None
    branches: tuple[BranchStep, ...]


def read_steps(steps: Any, trace: Any) -> list[DecodingStep]:
    """The steps of a sample; empty if none were recorded. trace: its numbers of plausible tokens and changed tokens."""
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
        plausible, changed = (_at(numbers.get(name), i) for name in ("plausible_tokens", "changed"))
        decoded.append(
            DecodingStep(
                words[steps["chosen"][i]],
                tops[0][0][0] if tops[0] else "",
                None if plausible is None else int(plausible),
                None if changed is None else bool(changed),
                branches,
            )
        )
    return decoded


def token_text(word: str) -> str:
    """A token's text on one line, without control characters and with visible spaces."""
    if not word:
        return END_OF_TEXT
    plain = strip_control_characters(word).replace("\n", "⏎")
    return plain if plain.strip() else "␣" * len(plain)


def print_steps(steps: Sequence[DecodingStep], console: "rich.console.Console") -> None:
    """Prints a block per step: the chosen token, then the branches in columns."""
    console.print()
    for number, step in enumerate(steps):
        console.print(_head(number, step), soft_wrap=True)
        for line in _columns(step.branches, console.width):
            console.print(line, soft_wrap=True)
        console.print()
    if len(steps[0].branches) > 2:
        note = "×: weight in the combined scores. JS: Jensen-Shannon divergence from the reference, in nats."
        console.print(note, style="dim", highlight=False)


def _head(number: int, step: DecodingStep) -> "rich.text.Text":
    head = rich.text.Text(f"step {number}  ", "dim").append(step.chosen, "bold")
    if step.changed:
        head.append(f"  (the reference: {step.reference})", "yellow")
    if step.plausible_tokens is not None:
        verb = "survives" if step.plausible_tokens == 1 else "survive"
        head.append(f"  {format_count(step.plausible_tokens, 'token')} {verb}", "dim")
    return head


def _columns(branches: Sequence[BranchStep], width: int) -> "Iterator[rich.text.Text]":
    columns = max(1, (width - 2) // COLUMN_WIDTH)
    for start in range(0, len(branches), columns):
        part = [_lines(one) for one in branches[start : start + columns]]
        for row in range(max(map(len, part))):
            line = "".join((lines[row] if row < len(lines) else "").ljust(COLUMN_WIDTH) for lines in part)
            yield rich.text.Text(f"  {line.rstrip()}", "dim" if row in (0, max(map(len, part)) - 1) else "")


def _lines(one: BranchStep) -> list[str]:
    """The lines of one column: name and weight, a line per token, entropy and divergence."""
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
