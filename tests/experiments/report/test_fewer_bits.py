"""The section on fewer bits: there where precisions differ, with the numbers of the analyses and nothing measured."""

import json

import numpy as np
import pytest

from experiments.analyses.quantization_gains import analyze as gains
from experiments.report.page import write_report
from experiments.report.sections.analyses import own_sections
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


def of(run):
    """The sections on precisions: name -> section."""
    return {one.name: one for one in own_sections(view_run(run))}


def rows_of(section):
    """The model -> the cells of its row, by the heading."""
    (table,) = section.tables
    heads = [head.text for head in table.heads]
    return {row[0].text: dict(zip(heads, [cell.text for cell in row], strict=True)) for row, _ in table.rows}


def test_a_run_in_one_precision_has_no_such_section(written):
    run = written(queries=3, tasks=("shapes",), shots=(0,))
    assert of(run) == {}
    assert 'id="quantization"' not in write_report(run).report.read_text(encoding="utf-8")


def test_two_models_that_are_not_quantized_are_no_precisions(written):
    others = ({"name": "hf", "path": path, "quantize": "none"} for path in ("tiny", "large"))
    assert of(written(queries=3, tasks=("shapes",), models=tuple(others), shots=(0,))) == {}


def test_accuracy_and_answers_are_paired_with_full_precision_and_missing_measurements_are_named(run):
    view, section = view_run(run), of(run)["quantization"]
    means = view.scores.groupby("model")["lenient"].mean()
    full, few = rows_of(section).values()
    assert list(rows_of(section)) == list(NAMES)
    assert (full["accuracy"], full["difference"], full["agreement"]) == (format_share(means[NAMES[0]]), "–", "1.000")
    assert few["accuracy"] == format_share(means[NAMES[1]])
    assert few["difference"] == format_signed(means[NAMES[1]] - means[NAMES[0]])
    answers = view.frame.pivot_table(
        index=["query", "seed", "shots", "retriever", "decoding"], columns="model", values="output", aggfunc="first"
    )
    assert few["agreement"] == format_share(float((answers[NAMES[0]] == answers[NAMES[1]]).mean()))
    assert section.notes[-1].startswith(f"Divergence, memory and speed were not measured for {', '.join(NAMES)}:")
    assert not (run.path / "precision").exists()


def test_what_was_measured_is_shown(run):
    measure(run)
    section = of(run)["quantization"]
    full, few = rows_of(section).values()
    divergence = format_share(0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))
    assert (full["kl"], few["kl"], few["kl max"]) == ("–", divergence, divergence)
    texts = [[row[name] for name in ("weights, MiB", "peak, MiB", "tokens/s")] for row in (full, few)]
    assert texts == [["9.40", "673", "125"], ["5.50", "673", "125"]]
    assert section.notes[-1] == ""
    page = write_report(run).report.read_text(encoding="utf-8")
    assert '<section id="quantization"' in page
    assert 'href="#quantization"' in page


def test_each_gain_stands_at_every_precision(run):
    frame, section = gains(view_run(run)), of(run)["quantization_gains"]
    cells = [row for table in section.tables for row, _ in table.rows]
    assert len(cells) == len(frame)
    text = [" ".join(cell.text for cell in row) for row in cells]
    assert all(any(format_signed(gain) in line for line in text) for gain in frame["gain"])


def test_the_section_says_if_full_precision_is_ambiguous(written):
    few = tuple({"name": "hf", "path": "tiny", "quantize": bits} for bits in ("int8", "nf4"))
    run = written(queries=3, tasks=("shapes",), models=few, shots=(0,))
    assert "it is not clear what full precision is" in of(run)["quantization"].notes[0]
    assert "it is not clear what full precision is" in write_report(run).report.read_text(encoding="utf-8")
