"""Do answers survive fewer bits? Accuracy, answers and logits against full precision, with memory and speed.

    difference   of accuracy, over the same queries, seeds and settings, with its interval and p (Holm over precisions)
    agreement    share of these samples with the same answer as in full precision, right or wrong
    kl, kl_max   KL(full || quantized) of the first answer token in nats, mean and maximum over the same prompts
    weights_mib  of all weights in memory; peak_mib: of the process (on a GPU: of its allocations)
    tokens_s     new tokens per second of greedy decoding over these prompts, prefill included

Logits, memory and speed are measured once, each setting in a process of its own (`quantization_measurements`), and
stored in the run's folder. Full precision is the model that the run compares to, else the one that is quantized neither
by its settings nor by its checkpoint (GPTQ, AWQ).
"""

from collections.abc import Mapping
from typing import Any

from experiments import RunView, Store, make_table
from experiments.analyses.quantization_measurements import measure_models
from experiments.results.view_run import cells_by_label
from experiments.stats import KEYS, align_pairs, as_mapping, axis_values, corrected_tests, read_answer, to_records
from icl import ConfigError, DataFrame
from icl.models.hf.prequantized import comes_as


def analyze(view: RunView) -> DataFrame:
    """One row per precision. Raises ConfigError for a single precision."""
    full = full_precision(view)
    return compare_precisions(view, full, measure_models(view, full))


def compare_precisions(view: RunView, full: str, costs: Mapping[str, Mapping[str, float]]) -> DataFrame:
    """One row per precision. `costs` has further columns of each model, if they were measured."""
    frames = {model: view.scores[view.scores["model"] == model] for model in axis_values(view.scores, "model")}
    on = [*KEYS, *(axis for axis in view.axes if axis != "model")]
    table_rows: list[dict[str, Any]] = []
    others = [model for model in frames if model != full]
    tests = corrected_tests(
        [align_pairs(frames[full], frames[model], view.metric, on, names=(full, model)) for model in others],
        (full, "another precision"),
    )
    tested = dict(zip(others, tests, strict=True))
    for model, own in frames.items():
        row = {"model": model, "accuracy": float(own[view.metric].mean())}
        row |= dict.fromkeys(("difference", "low", "high", "p"), float("nan"))
        if model != full:
            row |= {key: float(getattr(tested[model], key)) for key in ("difference", "low", "high", "p")}
        row["agreement"] = _agreement(view, model, full, on)
        table_rows.append({**row, **costs.get(model, {}), "n": len(own)})
    frame = make_table(
        table_rows,
        "What fewer bits change",
        note=(
            f"against {full}; agreement: share of the same answers; kl in nats, of the first token; peak of the "
            "process, or of a GPU's allocations; tokens/s of greedy decoding, on this machine; p and interval after "
            "Holm; n samples"
        ),
        signed=("difference", "low", "high"),
    )
    frame.attrs["heads"] = {"weights_mib": "weights, MiB", "peak_mib": "peak, MiB", "tokens_s": "tokens/s"}
    return frame


def full_precision(view: RunView) -> str:
    """The label of the full-precision model. Raises ConfigError if it is not clear."""
    labels = axis_values(view.scores, "model") if "model" in view.scores else []
    if len(labels) < 2:
        raise ConfigError(f"{view.path}: there is a single precision. Run with an axis such as model.quantize.")
    if view.to.get("model") in labels:
        return str(view.to["model"])
    whole = [label for label, bits in precisions(view).items() if bits in ("none", None)]
    if len(whole) != 1:
        raise ConfigError(
            f"{view.path}: {len(whole)} of its models are not quantized ({', '.join(map(str, labels))}), so it is not "
            "clear what full precision is. Write compare: {to: {model: …}} into the config."
        )
    return str(whole[0])


def precisions(view: RunView) -> dict[str, Any]:
    """How each model is quantized, by its setting or its checkpoint; 'none' or None if it is not."""
    cells = cells_by_label(view.frame, "model", Store(view.path))
    mappings = {label: as_mapping(cell.get("model")) for label, cell in cells.items()}
    set_to = {label: node.get("quantize", node.get("quantization")) for label, node in mappings.items()}
    return {
        label: (comes_as(mappings[label]) or bits) if bits in ("none", None) else bits for label, bits in set_to.items()
    }


def _agreement(view: RunView, model: str, full: str, on: list[str]) -> float:
    """The answer of each row (`read_answer`)."""
    rows = view.frame[view.frame["model"].isin((model, full)) & view.frame["failed"].isna()]
    answers = {(row["model"], *(row[key] for key in on)): read_answer(row) for row in to_records(rows)}
    both = [(answers[key], answers.get((full, *key[1:]))) for key in answers if key[0] == model]
    paired = [(one, other) for one, other in both if other is not None]
    return sum(one == other for one, other in paired) / len(paired) if paired else float("nan")
