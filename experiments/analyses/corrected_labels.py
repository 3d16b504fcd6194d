"""Which class does each image have after Machine Vision Therapy (task `dicl`)? Export for training

    image       id of the query of the inner task
    prediction  class of the other classifier
    confidence  its probability
    label       the accepted prediction, or the candidate with the highest P(yes) (`icl.metrics.dicl`)
    changed     whether label and prediction differ

`--as jsonl --out labels.jsonl` writes one JSON object per image. Gold answers are not used. Each setting and seed
has its own rows. The threshold is that of the run's metric.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments import RunView, answered_samples, iter_settings, make_table
from experiments.stats import SAMPLE, run_level_columns
from icl import ConfigError, DataFrame
from icl.metrics.dicl import DICLMetric, correction


def analyze(view: RunView) -> DataFrame:
    """One row per image, setting and seed. Raises ConfigError for a run without questions of `dicl`."""
    rows = [
        {**setting, "seed": seed, "image": image, "prediction": meta["prediction"], "confidence": meta["confidence"],
         "label": label, "changed": label != meta["prediction"]}
        for setting, seed, image, meta, label in corrections(view)
    ]  # fmt: skip
    return make_table(rows, "Corrected labels", note=f"changed: {sum(row['changed'] for row in rows)} of {len(rows)}")


def corrections(view: RunView) -> Iterator[tuple[dict[str, Any], Any, str, Mapping[str, Any], str]]:
    """(setting, seed, image, facts of its questions, corrected class) of each image."""
    columns = run_level_columns(view.frame).values()
    scored = next(((one.metric, one.samples) for one in columns if isinstance(one.metric, DICLMetric)), None)
    if scored is None:
        raise ConfigError(f"{view.path}: no metric has P(yes) of each candidate. Run task dicl with dicl_accuracy.")
    metric, every = scored
    for setting, rows in iter_settings(view, answered_samples(view)):
        for (seed, image), members in rows.groupby(["seed", "group"], sort=False):
            samples = [every[i] for i in members[SAMPLE]]
            if (result := correction(samples, metric.threshold)) is not None:
                yield setting, seed, str(image), samples[0].meta, result[1]
