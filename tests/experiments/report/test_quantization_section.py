"""The section on fewer bits: there where precisions differ, with the numbers of the analyses and nothing measured."""

import json

import numpy as np
import pytest

from experiments.analyses.quantization_gains import analyze as gains
from experiments.report.html import write_report
from experiments.report.quantization_section import quantization_section
from experiments.results.view_run import view_run
from experiments.stats.formatting import format_share, format_signed

FULL, FEW = ({"name": "hf", "path": "tiny", "quantize": bits} for bits in ("none", "nf4"))
NAMES = "tiny(quantize=none)", "tiny(quantize=nf4)"


@pytest.fixture
def run(written):
    return written(queries=6, tasks=("shapes",), models=(FULL, FEW), shots=(0, 4))


def measure(run):
    """What the analysis leaves behind, for the second model half as likely to say the first token."""
    folder = run.path / "precision"
    folder.mkdir()
    for name, first, weights in (("none", 0.5, 9.4), ("nf4", 0.25, 5.5)):
        numbers = {"weights_mib": weights, "peak_mib": 673.0, "tokens_s": 125.0}
        logprobs = np.log(np.array([[first, 1 - first]], dtype=np.float32))
        np.savez(folder / f"tiny-quantize={name}.npz", logprobs=logprobs, numbers=json.dumps(numbers))


def test_a_run_in_one_precision_has_no_such_section(written):
    run = written(queries=3, tasks=("shapes",), shots=(0,))
    assert quantization_section(view_run(run)) is None
    assert 'id="bits"' not in write_report(run).report.read_text(encoding="utf-8")


def test_two_models_that_are_not_quantized_are_no_precisions(written):
    others = ({"name": "hf", "path": path, "quantize": "none"} for path in ("tiny", "large"))
    assert (
        quantization_section(view_run(written(queries=3, tasks=("shapes",), models=tuple(others), shots=(0,)))) is None
    )


def test_accuracy_and_answers_are_paired_with_full_precision_and_missing_measurements_are_named(run):
    view = view_run(run)
    section = quantization_section(view)
    assert (section.whole, [name for name, _ in section.rows]) == (NAMES[0], list(NAMES))
    means = view.scores.groupby("model")["lenient"].mean()
    (_, full), (_, few) = section.rows
    assert full == [format_share(means[NAMES[0]]), "–", "–", "–", "1.000"]
    assert few[:2] == [format_share(means[NAMES[1]]), format_signed(means[NAMES[1]] - means[NAMES[0]])]
    answers = view.frame.pivot_table(
        index=["query", "seed", "shots", "retriever", "decoding"], columns="model", values="output", aggfunc="first"
    )
    assert few[4] == format_share(float((answers[NAMES[0]] == answers[NAMES[1]]).mean()))
    assert section.note.startswith(f"Divergence, memory and speed were not measured for {', '.join(NAMES)}:")
    assert not (run.path / "precision").exists()


def test_what_was_measured_is_shown(run):
    measure(run)
    section = quantization_section(view_run(run))
    (_, full), (_, few) = section.rows
    assert full[5:] == ["–", "–", "9.4", "673", "125"]
    assert few[5:] == [format_share(0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))] * 2 + ["5.5", "673", "125"]
    assert section.note == ""
    page = write_report(run).report.read_text(encoding="utf-8")
    assert page.index('id="controls"') < page.index('<section id="bits">') < page.index('id="samples"')
    assert 'href="#bits"' in page
    assert "KL largest" in page


def test_each_gain_stands_at_every_precision(run):
    view = view_run(run)
    frame = gains(view)
    section = quantization_section(view)
    assert len(section.gains) == len(frame)
    assert [name for name, _ in section.gains if name] == list(dict.fromkeys(frame["task"] + ": " + frame["of"]))
    assert [cells[1] for _, cells in section.gains] == [format_signed(gain) for gain in frame["gain"]]


def test_the_section_says_if_full_precision_is_ambiguous(written):
    few = tuple({"name": "hf", "path": "tiny", "quantize": bits} for bits in ("int8", "nf4"))
    run = written(queries=3, tasks=("shapes",), models=few, shots=(0,))
    assert "it is not clear what full precision is" in quantization_section(view_run(run)).refused
    assert "it is not clear what full precision is" in write_report(run).report.read_text(encoding="utf-8")
