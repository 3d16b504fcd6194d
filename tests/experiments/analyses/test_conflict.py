"""Answers from text and from the image: six items by hand."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from experiments.analyses import conflict
from icl.errors import ConfigError

ITEMS = {  # answer from text, from the image; red is right
    "both": ("red", "red"),
    "text_only": ("red", "blue"),
    "image_only": ("blue", "red"),
    "same_wrong": ("blue", "blue"),
    "other_wrong": ("blue", "green"),
    "unread": ("purple", "purple"),
}
OPTIONS = ["red", "blue", "green"]


def rows(**recognized: str) -> list[dict[str, Any]]:
    """A row for each item and mode. recognized: item -> the answer by which it is recognized."""
    own = [
        {"seed": 0, "group": name, "mode": mode, "output": output}
        for name, pair in ITEMS.items()
        for mode, output in zip(("text", "image"), pair, strict=True)
    ]
    own += [{"seed": 0, "group": name, "mode": "recognize", "output": text} for name, text in recognized.items()]
    shared = {"options": OPTIONS, "gold": ["Red"], "task": "t", "shots": 0}
    return [{**row, **shared, "meta": {"mode": row["mode"]}} for row in own]


def analyze(ran: Any, own: list[dict[str, Any]]) -> pd.DataFrame:
    view = ran(model="fake-gold", shots=0, seeds=[0])
    frame = pd.DataFrame(own).assign(failed=None, unit=range(len(own)))
    return conflict.analyze(replace(view, frame=frame, axes=("task", "shots")))


def test_items_are_counted_by_which_answer_is_right(ran: Any) -> None:
    (row,) = analyze(ran, rows()).to_dict("records")
    shares = {name: row[name] for name in conflict.CELLS}
    assert shares == {**dict.fromkeys(conflict.CELLS, 1 / 6), "other_wrong": 2 / 6}
    assert row["flip"] == pytest.approx(4 / 6)  # text_only + image_only + other_wrong
    assert row["conflict"] == pytest.approx(2 / 6 + 2 / 6)  # 2 image_only + other_wrong
    assert (row["items"], row["asked"]) == (6, 6)
    assert math.isnan(row["shift"])


def test_agreement_is_corrected_for_chance(ran: Any) -> None:
    """Text: red, red, blue, blue, blue, unread; image: red, blue, red, blue, green, unread. Two of six agree."""
    chance = (2 * 2 + 3 * 2) / 36
    (row,) = analyze(ran, rows()).to_dict("records")
    assert row["kappa"] == pytest.approx((2 / 6 - chance) / (1 - chance))
    one = {"text": rows()[0], "image": rows()[1]}
    assert math.isnan(conflict.kappa([one, one]))


def test_only_recognized_items_with_all_modes_count(ran: Any) -> None:
    recognized = dict.fromkeys(ITEMS, "red") | {"text_only": "blue"}
    (row,) = analyze(ran, rows(**recognized)).to_dict("records")
    assert (row["items"], row["asked"], row["text_only"], row["both"]) == (5, 6, 0.0, 0.2)
    del recognized["both"]
    (row,) = analyze(ran, rows(**recognized)).to_dict("records")
    assert (row["items"], row["asked"], row["both"]) == (4, 5, 0.0)
    with pytest.raises(ConfigError, match="no item was asked from text alone and from its image, and recognized"):
        analyze(ran, rows(**dict.fromkeys(ITEMS, "blue")))
    with pytest.raises(ConfigError, match="no item was asked"):
        analyze(ran, [row for row in rows() if row["mode"] == "text"])


def test_the_shift_is_the_median_change_of_the_right_options_log_probability() -> None:
    def item(text: float, image: float) -> dict[str, Any]:
        scores = {"text": text, "image": image}
        return {
            mode: {"option_scores": {"red": value, "blue": 0.0}, "gold": ["red"], "options": ["red", "blue"]}
            for mode, value in scores.items()
        }

    def share(score: float) -> float:
        return math.exp(score) / (math.exp(score) + 1)

    moves = [abs(math.log(share(image) / share(0.0))) for image in (0.5, -1.0, 3.0)]
    items = [item(0.0, image) for image in (0.5, -1.0, 3.0)]
    assert conflict._shift(items) == pytest.approx(sorted(moves)[1])
    assert conflict._shift([*items, item(0.0, -math.inf), item(0.0, -math.inf)]) == pytest.approx(max(moves))
    assert conflict._log_ratio(item(-math.inf, 0.0)) == math.inf
    assert conflict._log_ratio(item(-math.inf, -math.inf)) == 0.0
    without = {**item(0.0, 1.0), "text": {"gold": ["red"]}}
    assert conflict._log_ratio(without) is None
    assert conflict._shift([without, item(0.0, 0.0)]) == 0.0
