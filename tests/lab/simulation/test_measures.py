"""Simulated runs: their designs have the truth that they state, and the command prints what the statistics give."""

import numpy as np
import pytest

from experiments.config.keys import StopSpec
from experiments.stats.arms import UNIT
from experiments.stats.pairs import align_pairs, paired_test
from lab.simulation import measures
from lab.simulation.__main__ import main
from lab.simulation.designs import (
    DESIGNS,
    PAGE_DESIGNS,
    SCORE,
    PageDesign,
    draw_frames,
    draw_scores,
)
from lab.simulation.measures import (
    comparison_rows,
    family_rows,
    null_page,
    page_rows,
    saving_rows,
)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_has_its_true_mean_and_difference(name):
    draw, design = np.random.default_rng(0), DESIGNS[name]
    reference, arm = draw_frames(draw, design, 20_000, 0.07)
    assert reference[SCORE].mean() == pytest.approx(design.mean, abs=0.012)
    assert arm[SCORE].mean() - reference[SCORE].mean() == pytest.approx(0.07, abs=0.012)
    assert reference[UNIT].nunique() == 20_000


def test_pairs_of_a_cluster_depend_on_each_other_and_names_can_be_exchanged_at_effect_0():
    reference, arm = draw_scores(np.random.default_rng(1), DESIGNS["groups"], 20_000, 0.0)
    differences = arm - reference
    assert np.corrcoef(differences[:, 0], differences[:, 1])[0, 1] == pytest.approx(0.5, abs=0.05)
    sums = differences.sum(axis=1)
    assert np.mean(sums == 3) == pytest.approx(np.mean(sums == -3), abs=0.005)


def test_comparisons_have_the_p_of_the_statistics():
    (row,) = comparison_rows(["single"], [40], 0.15, runs=30, seed=3)
    draw = np.random.default_rng([3, 40])
    null = [paired_test(align_pairs(*draw_frames(draw, DESIGNS["single"], 40, 0.0), SCORE)).p for _ in range(30)]
    assert row["false positives"] == np.mean([p <= 0.05 for p in null])
    assert row["power at 15 points"] > row["false positives"]
    assert row["p and interval agree"] == 1
    assert 0.8 < row["coverage of the difference"] <= 1


def test_pages_of_null_data_are_rarely_false(monkeypatch):
    draw = np.random.default_rng(4)
    frame = null_page(draw, PageDesign(seeds=2, group=3), 12)
    assert len(frame) == 9 * 12 * 2 * 3
    assert frame["group"].nunique() == 12
    wide = null_page(draw, PAGE_DESIGNS["wide grid"], 5)
    assert wide.groupby(["shots", "retriever", "decoding"]).ngroups == 30
    assert null_page(draw, PAGE_DESIGNS["three tasks"], 5)["task"].value_counts().to_list() == [9 * 5] * 3
    single, tasks = page_rows(["single", "three tasks"], [20], 4)
    assert (single["design"], tasks["design"]) == ("single", "three tasks")
    assert single["pages with a false sentence"] <= 0.5
    monkeypatch.setattr(measures, "null_page", _different_page)
    (row,) = page_rows(["single"], [20], 2)
    assert (row["pages with a false sentence"], row["by topic"]) == (
        1.0,
        "Decoding 1.000, ICL gain 1.000, Retrieval 1.000, Vote 1.000",
    )


def _different_page(draw, design, count):
    """A page on which vcd and knn are always right, and the others never."""
    page = null_page(draw, design, count)
    return page.assign(lenient=((page["decoding"] == "vcd") | (page["retriever"] == "knn")).astype(float))


def test_families_that_stop_early_save_samples_and_keep_their_level():
    spec = StopSpec()
    (null,) = family_rows(["single"], [200], 0.1, comparisons=4, real=0, runs=60, spec=spec)
    (some,) = family_rows(["single"], [200], 0.15, comparisons=4, real=2, runs=20, spec=spec)
    assert null["any false verdict"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert null["share, equal"] < 0.75
    assert some["real ones decided"] > 0.8
    assert some["share, real"] < null["share of all samples"] + 0.2
    (equal,) = family_rows(["single"], [400], 0.1, comparisons=1, real=0, runs=10, spec=StopSpec(margin=0.1))
    assert equal["equal ones called equal"] > 0.8


def test_savings_by_the_size_of_the_effect():
    rows = list(saving_rows(2000, 0.1, 8, StopSpec()))
    shares = [float(row["level 0.05/1"].split(" /")[0]) for row in rows]
    assert [row["theta"] for row in saving_rows(100, 0.1, 1, StopSpec())] == ["0", "1", "2", "2.8"]
    assert shares[-1] < 0.25 < shares[0]
    assert rows[-1]["level 0.05/56"].endswith("1.000 (1.000)")


def test_the_command_prints_a_table_and_writes_it(capsys, tmp_path):
    csv = tmp_path / "x.csv"
    words = ["families", "--design", "seeds", "--clusters", "40", "--runs", "3", "--csv", str(csv)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| design | clusters | any false verdict |")
    assert "3 runs a figure" in printed
    assert csv.read_text().startswith("design,clusters")
    assert main(["families", "--design", "seed"]) == 2
    assert "families has no design 'seed'. Did you mean 'seeds'?" in capsys.readouterr().err
    assert main(["families", "--design", "f1"]) == 2
    assert "no design 'f1'" in capsys.readouterr().err
    assert main(["families", "--real", "9"]) == 2
    assert main(["families", "--discordance", "0.05"]) == 2
    assert "needs at least as many pairs that differ" in capsys.readouterr().err
    assert main(["comparisons", "--design", "f1", "--clusters", "10", "--runs", "2"]) == 0
