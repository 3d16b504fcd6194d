"""Tests of BLEU, ROUGE-L, CIDEr and METEOR against scores of the released COCO caption evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest

from icl.errors import ConfigError, DataError, ICLWarning
from icl.metrics.base import ScoredSample
from icl.metrics.coco_captions import BLEU1, BLEU2, BLEU3, BLEU4, CIDEr, RougeL, cider_scores
from icl.metrics.meteor import Meteor, _Aligner, _warn_once, meteor, missing_part, summands
from icl.types import Example, Generation

FILE = Path(__file__).parents[1] / "golden/caption_scores.jsonl"
CORPUS, *CASES = [json.loads(line) for line in FILE.read_text().splitlines()]
CORPUS = CORPUS["corpus"]
BLEU = {1: BLEU1, 2: BLEU2, 3: BLEU3, 4: BLEU4}
EXAMPLES = [Example(f"e{i}", (), "?", tuple(case["references"])) for i, case in enumerate(CASES)]


def scores(metric):
    return [metric.score(Generation(case["caption"]), example) for case, example in zip(CASES, EXAMPLES, strict=True)]


def cell(metric, cases=None):
    cases = range(len(CASES)) if cases is None else cases
    return metric.run_level([
        ScoredSample(f"e{i}", 0.0, None, CASES[i]["caption"], tuple(CASES[i]["references"]), (), {}) for i in cases
    ])  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_bleu_is_that_of_the_released_code(n):
    assert scores(BLEU[n]()) == pytest.approx([case["bleu"][n - 1] for case in CASES], abs=1e-9)
    assert cell(BLEU[n]()).statistic == pytest.approx(CORPUS["bleu"][n - 1], abs=1e-9)


def test_rouge_l_is_that_of_the_released_code():
    assert scores(RougeL()) == pytest.approx([case["rouge_l"] for case in CASES], abs=1e-9)
    assert np.mean(scores(RougeL())) == pytest.approx(CORPUS["rouge_l"], abs=1e-9)


def test_cider_is_that_of_the_released_code():
    captions, references = [case["caption"] for case in CASES], [case["references"] for case in CASES]
    assert cider_scores(captions, references) == pytest.approx([case["cider"] for case in CASES], abs=1e-9)
    assert cell(CIDEr()).statistic == pytest.approx(CORPUS["cider"], abs=1e-9)


def test_meteor_follows_from_the_counts_of_the_released_aligner():
    rows = np.array([summands(case["meteor_counts"]) for case in CASES])
    assert meteor(rows) == pytest.approx([case["meteor"] for case in CASES], abs=1e-9)
    assert meteor(rows.sum(axis=0)) == pytest.approx(CORPUS["meteor"], abs=1e-9)


@pytest.mark.skipif(missing_part() is not None, reason=f"meteor {missing_part()}")
def test_meteor_is_that_of_the_released_code():
    assert scores(Meteor()) == pytest.approx([case["meteor"] for case in CASES], abs=1e-9)
    assert cell(Meteor()).statistic == pytest.approx(CORPUS["meteor"], abs=1e-9)


def test_meteor_without_java_is_a_sentence_and_a_report_falls_back_with_a_warning(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"meteor needs Java, .* Install a Java runtime, .* Or leave the metric out"):
        Meteor().score(Generation("a dog"), EXAMPLES[0])
    _warn_once.cache_clear()
    with pytest.warns(ICLWarning, match="The mean of the samples' own scores is shown"):
        parts = Meteor().run_level([ScoredSample("a", 0.25), ScoredSample("b", 0.75), ScoredSample("c", None)])
    assert parts.numbers().tolist() == pytest.approx([0.25, 0.75, np.nan], nan_ok=True)


def test_meteor_without_its_data_names_the_package(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/java")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install pycocoevalcap"):
        Meteor().preflight()


def test_an_aligner_that_does_not_run_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "java").write_text("#!/bin/sh\nread line\n" + "echo broken\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    aligner = _Aligner(tmp_path)
    with pytest.raises(DataError, match="the METEOR aligner answered 'broken' to 'a dog', not 23 counts"):
        aligner.counts(["a cat"], "a dog")
    aligner._process.wait()
    with pytest.raises(DataError, match=r"the METEOR aligner (has stopped|answered '')"):
        aligner.counts(["a cat"], "a dog")


def test_bleu_of_a_resample_is_bleu_of_its_samples():
    times = np.bincount(np.random.default_rng(0).integers(0, len(CASES), len(CASES)), minlength=len(CASES))
    again = tuple(np.repeat(np.arange(len(CASES)), times).tolist())
    statistics = cell(BLEU4())
    assert statistics.value(times @ statistics.rows) == pytest.approx(cell(BLEU4(), again).statistic)


def test_a_caption_without_references_and_a_failed_one_have_no_score():
    bare = Example("e", (), "?", ())
    assert BLEU4().score(Generation("a dog"), bare) is None
    assert RougeL().score(Generation("a dog"), bare) is None
    samples = [ScoredSample("a", None, None, "a dog", ("a dog",)), ScoredSample("b", 0.5, None, None, ("a dog",))]
    numbers = BLEU1().run_level([*samples, ScoredSample("c", 1.0, None, "a dog", ("a dog",))]).numbers()
    assert numbers.tolist() == pytest.approx([np.nan, np.nan, 1], nan_ok=True)


def test_an_empty_caption_scores_nothing():
    example = Example("e", (), "?", ("a dog",))
    assert BLEU1().score(Generation(""), example) == pytest.approx(0, abs=1e-12)
    assert RougeL().score(Generation(""), example) == 0
