"""The section on the answers of each arm: scores, forms, outputs without an answer, and what was cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from experiments.results.arm_answers import ArmAnswers, is_unremarkable
from experiments.results.run_view import RunView
from experiments.stats.arms import deciding_digests, iter_arms
from experiments.stats.formatting import format_share
from experiments.stats.sample_rows import text_value
from icl.metrics.machinery.answer_extraction import extract_answer

if TYPE_CHECKING:
    from rich.console import Console


MAX_PRINTED = 16
"""The largest number of arms whose answers `icl compare` prints."""

THINKING_ENDS = {"cut": "thinking cut at max_thinking_tokens", "open": "thinking never closed"}
ANSWER_ENDS = {"length": "cut at max_new_tokens"}
"""What a sample's `thinking` and `finish` mean, where that is remarkable."""


@dataclass(frozen=True)
class AnswerSection:
    """The table of a page. The page folds it away if the arms agree and every output gives an answer.

    Attributes:
        heads: The headings of the columns.
        rows: The cells of each arm.
        summary: One line that stands for the table.
        is_folded: Whether there is nothing remarkable in it.
        axes: The number of first columns that name the arm.
        num_repeated: Arms that are left out, because their answers are those of another arm by construction.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    summary: str
    is_folded: bool
    axes: int
    num_repeated: int = 0


def answer_section(view: RunView) -> AnswerSection | None:
    """The section of a run, or None if no output of it can be read."""
    arms = view.arm_answers
    if not arms:
        return None
    axes = [axis for axis in arms[0].arm if axis in ("shots", *view.row_axes) or len(view.tasks) > 1]
    has_thinking = any(one.cut_thinking or one.reasoned for one in arms)
    shares = ["no answer", "answer cut", *(["thinking cut"] if has_thinking else [])]
    heads = (*axes, "strict", "lenient", *shares, "forms")
    distinct = _distinct_arms(view, arms)
    rows = tuple(
        (*(str(one.arm[axis]) for axis in axes), *_numbers(one, has_thinking), one.wrapping) for one in distinct
    )
    is_folded = is_unremarkable(arms)
    summary = f"All arms write their answers alike ({arms[0].wrapping}), and every output gives an answer."
    repeated = len(arms) - len(distinct)
    return AnswerSection(heads, rows, summary if is_folded else "", is_folded, len(axes), repeated)


def _distinct_arms(view: RunView, arms: Sequence[ArmAnswers]) -> list[ArmAnswers]:
    """The arms without those whose answers are the same as an earlier arm's by construction."""
    axes = list(arms[0].arm)
    decided = {tuple(arm[axis] for axis in axes): deciding_digests(rows) for arm, rows in iter_arms(view.scores, axes)}
    by_digests: dict[Any, ArmAnswers] = {}
    for place, one in enumerate(arms):
        by_digests.setdefault(decided.get(tuple(one.arm[axis] for axis in axes)) or place, one)
    return list(by_digests.values())


def _numbers(one: ArmAnswers, has_thinking: bool) -> list[str]:
    numbers = [one.strict, one.lenient, one.unparsed, one.cut_answer, *([one.cut_thinking] if has_thinking else [])]
    return [format_share(number) for number in numbers]


def describe_sample(row: Mapping[str, Any], view: RunView) -> str:
    """How an output writes its answer, what was cut, and the answers of its arm. '' if the run has nothing remarkable.

    'labeled; its arm: strict .000, lenient 1.000, 100 % labeled'
    """
    if is_unremarkable(view.arm_answers):
        return ""
    form = extract_answer(text_value(row, "output")).form.replace("none", "no answer")
    ends = THINKING_ENDS.get(text_value(row, "thinking")), ANSWER_ENDS.get(text_value(row, "finish"))
    own = ", ".join(filter(None, [form, *ends]))
    arms = [one for one in view.arm_answers if all(row[axis] == value for axis, value in one.arm.items())]
    return "; its arm: ".join([own, *map(_describe, arms)])


def _describe(one: ArmAnswers) -> str:
    scores = [("strict", one.strict), ("lenient", one.lenient)]
    shares = [("no answer", one.unparsed), ("answer cut", one.cut_answer), ("thinking cut", one.cut_thinking)]
    numbers = [pair for pair in scores if not isnan(pair[1])] + [pair for pair in shares if pair[1]]
    return ", ".join([*(f"{name} {format_share(value)}" for name, value in numbers), one.wrapping])


def print_answers(view: RunView, console: "Console") -> None:
    """Prints the table of `icl analyze RUN answer_forms`, unless the arms agree and every output gives an answer."""
    from experiments.analyses import answer_forms
    from experiments.analyses.terminal_table import print_analysis

    arms = view.arm_answers
    if not arms or is_unremarkable(arms):
        return
    console.print()
    if len(arms) <= MAX_PRINTED:
        print_analysis(answer_forms.analyze(view), console)
    else:
        notes = view.answer_notes or ["arms write their answers differently"]
        line = f"{'; '.join(notes)}: icl analyze {view.path} answer_forms"
        console.print(line, style="dim", markup=False, highlight=False)
