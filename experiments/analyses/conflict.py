"""Do answers from the image conflict with answers from text alone?

One row per setting, over the recognized items (all items, if recognition was not asked for):

    both           both right                            text_only      the text right, the image wrong    (b)
    image_only     the image right, the text wrong (c)
    same_wrong     both wrong, the same answer           other_wrong    both wrong, different answers      (d)

    flip = b + c + d      conflict = flip - (b - c) = 2 c + d, the lower bound of DCD (Zhu et al., 2410.03659)
    kappa = (agreement - chance) / (1 - chance), with chance from how often each answer occurs (Cohen 1960)
    shift = median of |log(p_image / p_text)| of the right option, if options were scored: the contrastive metric of
            DCD. It needs the gold answer, so it is not a detector

The conflict rate leaves out b, where the image does harm. An answer outside the options agrees with none, as in the
code of DCD.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, iter_settings, make_table
from experiments.stats import as_mapping, predicted_option, text_items, to_records, unit_labels
from icl import DataFrame, normalize_text
from icl.metrics.machinery.option_parsing import option_probability

Row = Mapping[str, Any]


def analyze(view: RunView) -> DataFrame:
    """One row per setting that asked items from text and from the image. Raises ConfigError if none did."""
    table_rows: list[dict[str, Any]] = []
    for setting, samples in iter_settings(view, answered_samples(view, with_demos=False)):
        items = _items(to_records(samples))
        recognized_items = [item for item in items if "recognize" not in item or _right(item["recognize"])]
        if not recognized_items:
            continue
        cells = Counter(_cell(item) for item in recognized_items)
        shares = {name: cells[name] / len(recognized_items) for name in CELLS}
        flips = [_cell(item) not in ("both", "same_wrong") for item in recognized_items]
        flipped = interval_columns(flips, unit_labels([item["image"] for item in recognized_items]), "flip")
        bound = {
            "conflict": flipped["flip"] - shares["text_only"] + shares["image_only"],
            "kappa": kappa(recognized_items),
        }
        counts = {"shift": _shift(recognized_items), "items": len(recognized_items), "asked": len(items)}
        table_rows.append({**setting, **flipped, **bound, **shares, **counts})
    return make_table(
        table_rows,
        "Do answers from the image agree with answers from text?",
        missing=f"{view.path}: no item was asked from text alone and from its image, and recognized. "
        "Run the task 'conflict' (modes: [text, image, recognize]).",
    )


CELLS = ("both", "text_only", "image_only", "same_wrong", "other_wrong")


def kappa(items: Sequence[Mapping[str, Row]]) -> float:
    """Cohen's kappa of the two answers; NaN if the agreement by chance is 1."""
    pairs = [(predicted_option(item["text"]), predicted_option(item["image"])) for item in items]
    agree = sum(a is not None and a == b for a, b in pairs) / len(pairs)
    text, image = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(text[a] * image[a] for a in text if a is not None) / len(pairs) ** 2
    return (agree - chance) / (1 - chance) if chance < 1 else float("nan")


def _shift(items: Sequence[Mapping[str, Row]]) -> float:
    """The median change of the right option's log-probability; NaN without option scores."""
    moved = [_log_ratio(item) for item in items]
    ratios = [value for value in moved if value is not None]
    return float(np.median(ratios)) if ratios else float("nan")


def _log_ratio(item: Mapping[str, Row]) -> float | None:
    both = [_gold_share(item[mode]) for mode in ("image", "text")]
    if both[0] is None or both[1] is None:
        return None
    image, text = both
    if not image or not text:
        return 0.0 if image == text else math.inf
    return abs(math.log(image / text))


def _gold_share(row: Row) -> float | None:
    scores = row.get("option_scores")
    gold = text_items(row, "gold")
    return option_probability(scores, gold[0]) if isinstance(scores, Mapping) and scores and gold else None


def _items(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """The sample of each mode, for every item that has all modes."""
    items: dict[tuple[Any, ...], dict[str, Row]] = {}
    modes = set()
    for row in rows:
        mode = as_mapping(row.get("meta")).get("mode")
        if mode is not None:
            modes.add(mode)
            items.setdefault((row["seed"], row.get("group")), {})[str(mode)] = row
    return [item for item in items.values() if {"text", "image"} <= set(item) and modes <= set(item)]


def _cell(item: Mapping[str, Row]) -> str:
    text, image = _right(item["text"]), _right(item["image"])
    if text or image:
        return "both" if text and image else "text_only" if text else "image_only"
    text_answer = predicted_option(item["text"])
    return "same_wrong" if text_answer is not None and text_answer == predicted_option(item["image"]) else "other_wrong"


def _right(row: Row) -> bool:
    return predicted_option(row) in {normalize_text(answer) for answer in text_items(row, "gold")}
