"""The figures of the card: intervals, goals, the median seed, mentions in captions, the initial connector."""

import numpy as np
import pytest
import torch

from lab.tiny.captions import mentioned
from lab.tiny.card import card
from lab.tiny.code import fact_code, fact_targets
from lab.tiny.evaluate import Figures
from lab.tiny.goals import goals, median_seed
from lab.tiny.pool import COLUMN, make_pool
from lab.tiny.precision import LogitAgreement
from lab.tiny.wilson import format_proportion


def figures(share: float) -> Figures:
    """Figures of the card's form, every cell with the same share of 200."""
    counts = (round(200 * share), 200)
    shots = dict.fromkeys(("0", "1", "2", "4", "8", "16"), counts)
    by = {f"{kind}, {how}": shots for kind in ("texture", "size", "count") for how in ("named", "not named")}
    labels = ("scenes of seen concepts", "scenes with a held-out concept")
    captions = {f"{what}, {label}": {"": counts} for what in ("CHAIR_I", "8 to 20 words") for label in labels}
    return {
        "binding": {"2-way": shots, "4-way": shots, "8-way": shots},
        "binding by attribute": by,
        "rule in the demonstrations": {"operators": shots, "attribute": shots},
        "questions": {"size": shots},
        "existence": {"random": shots},
        "captions": captions,
    }


def test_proportions_have_their_intervals() -> None:
    assert format_proportion((8, 10)) == ".800 (.490-.943)"
    assert format_proportion((0, 0)) == "-"


def test_goals_are_met_and_missed_by_the_figures() -> None:
    good = {goal.name: goal for goal in goals(figures(0.99))}
    assert good["binding 8-way, 8 shots"].met
    assert good["operators, 4 shots"].met
    leaks = next(goal for name, goal in good.items() if name.startswith("operators, 0 shots"))
    assert not leaks.met  # right without a demonstration: something leaks
    assert not good["CHAIR_I, scenes of seen concepts"].met
    assert not {goal.name: goal for goal in goals(figures(0.9))}["binding 4-way, 8 shots"].met


def test_the_median_seed_is_the_middle_one() -> None:
    assert median_seed({0: figures(0.9), 1: figures(0.99), 2: figures(0.95)}) == 2


def test_the_card_shows_every_cell_and_missed_goals() -> None:
    stored = {0: figures(0.9), 1: figures(0.99), 2: figures(0.95)}
    text = card(figures(0.95), stored, {"float32": LogitAgreement(10, 10, 1e-5)}, 2)
    assert "missed" in text
    assert "| seed 1 |" in text
    assert ".950 (.910-.973)" in text
    assert "{" not in text


def test_mentions_are_color_and_shape_pairs() -> None:
    text = "there are two red circles, one blue cross and two teal arches in the image"
    assert mentioned(text) == [("red", "circle"), ("blue", "cross"), ("teal", "arch")]
    assert mentioned("a red image of circles") == []


def test_the_initial_connector_gives_facts_separate_coordinates() -> None:
    pool = make_pool(1, 1200)
    targets, strengths = fact_targets(pool.facts)
    mixing = torch.randn(targets.shape[1], 240, generator=torch.Generator().manual_seed(0))
    tokens = torch.from_numpy(targets) @ mixing
    code = (tokens @ fact_code(tokens, pool.facts).T).numpy()
    red = pool.facts[:, COLUMN["color"]] == 0
    assert np.corrcoef(code[:, 0], red)[0, 1] > 0.95
    assert np.sqrt((code**2).mean(0))[: len(strengths)] == pytest.approx(strengths, rel=1e-3)
