"""F1 of every label, averaged with equal weights: scikit-learn's `f1_score(gold, predicted, average="macro")`.

    F1 of a label = 2 true positives / (predicted + gold)        macro F1 = mean over the labels

Labels are chosen as in scikit-learn: all labels that are gold or predicted somewhere in the cell. A label that is only
predicted has F1 0 and counts. An option that is neither does not count. An output that names none of the run's answers
predicts no label (as in scikit-learn with these `labels`): it counts as missed and adds no label.

The predicted label is yes or no; with options, the option that the output names; otherwise the accepted answer by the
rule of `lenient`, or another gold answer of the cell. The first accepted answer is the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from icl.metrics.base import Better, ScoredSample
from icl.metrics.machinery.answer_matching import contains_answer
from icl.metrics.machinery.option_parsing import is_correct, named_option
from icl.metrics.machinery.yes_no import read_yes_no
from icl.metrics.normalize import normalize_text
from icl.metrics.run_level import SampleValues, macro_f1, on_scored_samples
from icl.registry import component
from icl.types import Example, Generation


@component("metric", "macro_f1")
@dataclass(frozen=True)
class MacroF1:
    """F1 of each label that is gold or predicted, averaged with equal weights, over a whole cell."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if example.answers else None

    def run_level(self, samples: Sequence[ScoredSample]) -> SampleValues:
        return on_scored_samples(samples, _parts)


def _parts(samples: Sequence[ScoredSample]) -> SampleValues:
    golds = {label: label for sample in samples for label in map(normalize_text, sample.gold[:1])}
    actual = [normalize_text(sample.gold[0]) if sample.gold else None for sample in samples]
    predicted = [_predicted_label(sample, golds) for sample in samples]
    names = dict.fromkeys(
        [*golds, "yes", "no", *(normalize_text(option) for sample in samples for option in sample.options)]
    )
    labels = {label: i for i, label in enumerate(sorted(names))}  # from the questions only, so equal for all arms
    numbers = [np.array([-1 if x is None else labels[x] for x in one], dtype=np.intp) for one in (predicted, actual)]
    return macro_f1(numbers[0], numbers[1], len(labels))


def _predicted_label(sample: ScoredSample, golds: dict[str, str]) -> str | None:
    """The normalized label that an output stands for."""
    output, gold = sample.output or "", sample.gold
    accepted = {normalize_text(answer) for answer in gold}
    if accepted <= {"yes", "no"}:
        return read_yes_no(output)
    if sample.options:
        named = named_option(output, sample.options)
        return normalize_text(gold[0]) if named in accepted else named
    return normalize_text(gold[0]) if contains_answer(output, gold) else golds.get(normalize_text(output))
