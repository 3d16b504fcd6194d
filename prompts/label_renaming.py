"""Answers under other names: which answers a context speaks of, and by what gold its query is scored.

Labels are flipped or become symbols by one map a context. A map is applied to whole answers, compared by `plain`, and
what it does not name stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from icl.errors import PlanError
from icl.metrics.normalize import normalize_text
from icl.types import Context, Demo, Example


def answers_of(context: Context) -> tuple[str, ...]:
    """The answers that the context speaks of, each once: the query's options, then those shown, best ranked first."""
    ranked = sorted(context.demos, key=lambda demo: demo.rank)
    spoken = [*context.query.options, *(demo.example.answer for demo in ranked)]
    return tuple(
        {normalize_text(answer): answer for answer in reversed(spoken)}[key]
        for key in dict.fromkeys(map(normalize_text, spoken))
    )


def rivals_of(context: Context) -> list[tuple[str, ...]]:
    """The answers by what they answer: options of one example are rivals, and so are all answers without options.

    Sets of options that share an answer are one. A context of yes/no questions and of questions for a color has two.
    In the order of `answers_of`; every answer is in one group.
    """
    ranked = [demo.example for demo in sorted(context.demos, key=lambda demo: demo.rank)]
    free = [example.answer for example in ranked if not example.options]
    sets = [context.query.options, *((*example.options, example.answer) for example in ranked if example.options), free]
    groups: list[dict[str, str]] = []
    for together in sets:
        mine = {normalize_text(answer): answer for answer in reversed(together)}
        mine = {key: mine[key] for key in dict.fromkeys(map(normalize_text, together))}
        touching = [group for group in groups if group.keys() & mine.keys()]
        whole: dict[str, str] = {}
        for group in (*touching, mine):
            whole |= {key: answer for key, answer in group.items() if key not in whole}
        place = groups.index(touching[0]) if touching else len(groups)
        groups = [group for group in groups if not any(group is other for other in touching)]
        if whole:
            groups.insert(place, whole)
    return [tuple(group.values()) for group in groups]


def rivals(answer: str, groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The group of an answer, in its order."""
    return next(group for group in groups if normalize_text(answer) in map(normalize_text, group))


def called(answer: str, names: Mapping[str, str]) -> str:
    """The answer's new name, or the answer itself."""
    return {normalize_text(old): new for old, new in names.items()}.get(normalize_text(answer), answer)


def shown_as(demo: Demo, answer: str) -> Demo:
    """The demonstration with another answer; its label goes along where it has one."""
    example = demo.example
    label = example.label if example.label is None else answer
    return replace(demo, example=replace(example, answers=(answer,), label=label))


def check_scored_as_it_is(context: Context, who: str) -> None:
    """Raises PlanError where the gold goes by other names already, and would be renamed again."""
    if context.relabels_gold:
        raise PlanError(f"{who} leaves the gold as it is, so it stands before symbols and synonyms. Change the order.")


def composed(before: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The map of a context that was renamed already and is renamed again."""
    told = {old: called(new, names) for old, new in before.items()}
    known = {normalize_text(new) for new in before.values()} | {normalize_text(old) for old in before}
    return told | {old: new for old, new in names.items() if normalize_text(old) not in known}


def scored_by(example: Example, context: Context) -> Example:
    """The query with the gold that its answer is scored by: under its new name where the context says so."""
    if not context.relabels_gold:
        return example
    names = context.label_map
    return replace(
        example,
        answers=tuple(called(answer, names) for answer in example.answers),
        options=tuple(called(option, names) for option in example.options),
        label=None if example.label is None else called(example.label, names),
    )


def before_and_after(scored: Example, context: Context) -> tuple[str, ...]:
    """(the right answer as the task has it, as the demonstrations call it); nothing where the map leaves it alone."""
    names = context.label_map
    if context.relabels_gold:
        old = next((old for old, new in names.items() if normalize_text(new) == normalize_text(scored.answer)), None)
        return () if old is None or normalize_text(old) == normalize_text(scored.answer) else (old, scored.answer)
    new = called(scored.answer, names)
    return () if normalize_text(new) == normalize_text(scored.answer) else (scored.answer, new)
