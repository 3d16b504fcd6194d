"""Does the position of an option change the answer? (ShiftCheck, CMMU 2024)

Over the questions that were asked under every cyclic shift of their options (the transform `option_list`):

    consistent   share of questions that are right under all shifts; chance is the mean of (1/n)^n over questions
    accuracy     over all shifts
    sd           standard deviation (n - 1) of the accuracy over the position of the gold answer
    first        share of answers that are the first option
    bias_rate    the measure of CMMU, as released: over all shifts of the questions with four options that are not
                 consistently right, the variance (n) of the percentages of answers at the four positions. A model that
                 always answers with the first position has 1875
    unread       share of answers that name no option or several; they are wrong and have no position
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import RunView, add_cell_column, answered_samples, interval_columns, iter_settings, make_table
from experiments.stats import UNIT, as_mapping, predicted_option, text_items, to_records
from icl import OPTION_TEXTS, DataFrame, normalize_text

NAME, SHIFT = "option_list", "shift"
FOUR = 4
Turns = Sequence[tuple[int | None, int | None, bool]]
"""For each shift of a question: (place of the answer or None if unread, place of the gold or None, is right)."""


def analyze(view: RunView) -> DataFrame:
    """One row per setting. Raises ConfigError if no question was asked under all shifts of its options."""
    rows = add_cell_column(view, answered_samples(view, with_demos=False), SHIFT, _shift)
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, rows, without=("transforms",)):
        questions = _questions(to_records(samples))
        if questions:
            table_rows.append({**setting, **shift_statistics(questions)})
    return make_table(
        table_rows,
        "Does an answer depend on the position of its option?",
        note="consistent: right under every shift of the options; sd: of accuracy over the position of the gold answer",
        missing=f"{view.path}: no question has samples for every shift of its options. For questions with three, in "
        "grid, transforms: [[{name: option_list, shift: 0}], [{name: option_list, shift: 1}], "
        "[{name: option_list, shift: 2}]].",
    )


def shift_statistics(questions: Sequence[tuple[Any, Turns]]) -> dict[str, float]:
    """The statistics of questions, given as (independent unit, shifts)."""
    turns = [turn for _, each in questions for turn in each]
    steady = [all(right for *_, right in each) for _, each in questions]
    places: dict[int, list[bool]] = {}
    for _, gold, right in turns:
        if gold is not None:
            places.setdefault(gold, []).append(right)
    by_place = [float(np.mean(own)) for own in places.values()]
    unsteady = [
        each for (_, each), is_steady in zip(questions, steady, strict=True) if not is_steady and len(each) == FOUR
    ]
    places_of_unsteady = [place for each in unsteady for place, *_ in each if place is not None]
    return {
        **interval_columns(steady, [unit for unit, _ in questions], "consistent"),
        "chance": float(np.mean([(1 / len(each)) ** len(each) for _, each in questions])),
        "accuracy": float(np.mean([right for *_, right in turns])),
        "sd": float(np.std(by_place, ddof=1)) if len(by_place) > 1 else float("nan"),
        "first": float(np.mean([place == 0 for place, *_ in turns])),
        "bias_rate": bias_rate(places_of_unsteady),
        "unread": float(np.mean([place is None for place, *_ in turns])),
        "questions": len(questions),
    }


def bias_rate(places: Sequence[int]) -> float:
    """The population variance of the percentages of answers at four places; NaN without an answer."""
    if not places:
        return float("nan")
    counts = Counter(places)
    return float(np.var([100 * counts[place] / len(places) for place in range(FOUR)]))


def _questions(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Turns]]:
    """The questions that were asked under every shift."""
    shifts_by_question: dict[tuple[Any, Any], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        count = len(text_items(row, "options"))
        if count > 1 and row[SHIFT] < count:
            shifts_by_question.setdefault((row["query"], row["seed"]), {})[int(row[SHIFT])] = row
    questions: list[tuple[Any, Turns]] = []
    for turns in shifts_by_question.values():
        first = next(iter(turns.values()))
        if len(turns) == len(text_items(first, "options")):
            questions.append((first[UNIT], [_turn(row, shift) for shift, row in turns.items()]))
    return questions


def _turn(row: Mapping[str, Any], shift: int) -> tuple[int | None, int | None, bool]:
    options = [normalize_text(option) for option in text_items(row, "options")]
    gold = [normalize_text(answer) for answer in text_items(row, "gold")]
    prediction = predicted_option(row)
    turned = 0 if OPTION_TEXTS in as_mapping(row.get("meta")) else shift  # letters stand in the order of the list
    at = {option: (i - turned) % len(options) for i, option in enumerate(options)}
    gold_place = next((at[answer] for answer in gold if answer in at), None)
    return (None if prediction is None else at[prediction]), gold_place, prediction is not None and prediction in gold


def _shift(cell: Mapping[str, Any]) -> int | None:
    """The shift of a cell; None without listed options, or with other transforms."""
    nodes = cell.get("transforms") or []
    return int(nodes[0][SHIFT]) if len(nodes) == 1 and nodes[0].get("name") == NAME else None
