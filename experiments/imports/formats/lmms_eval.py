"""Logs of lmms-eval: `DATE_samples_TASK.jsonl`, with `DATE_results.json` next to it.

Written by `EvaluationTracker.save_results_samples` (lmms-eval 0.7). Samples are paired by `doc_id`: its `doc_hash` is
one constant. The prompt is `input`. Every other key is a metric or what a metric needs for its aggregation.
"""

import re
from pathlib import Path
from typing import Any

from experiments.imports.logs import Log, LoggedSample, json_lines, json_object, log_format, score_of, task_log, text_of

PATTERN = r"(?P<date>\d[^/]*?)_samples_(?P<task>.+)\.jsonl"
FIELDS = frozenset(
    {"doc_id", "doc", "target", "arguments", "input", "input_media", "resps", "filtered_resps", "token_counts"}
) | {"doc_hash", "prompt_hash", "target_hash"}


@log_format("lmms-eval", PATTERN)
def read(path: Path) -> Log:
    """The log of one task. Raises DataError if a line is not a sample."""
    name = re.fullmatch(PATTERN, path.name)
    date, task = (name["date"], name["task"]) if name else ("", path.stem)
    results = json_object(path.with_name(f"{date}_results.json"))
    origin = {
        "from": "lmms-eval",
        "version": results.get("lmms_eval_version"),
        "model_args": (results.get("config") or {}).get("model_args"),
        "date": results.get("date") or date,
    }
    rows = json_lines(path, ("doc_id", "input", "target", "filtered_resps"))
    return task_log(path, task, map(_sample, rows), results, origin)


def _sample(row: dict[str, Any]) -> LoggedSample:
    scores, columns = dict[str, float](), dict[str, Any]()
    for key, value in row.items():
        if key in FIELDS:
            continue
        if (score := score_of(value)) is not None:
            scores[key] = score
        inner = value if isinstance(value, dict) else {key: value}
        columns |= {name: item for name, item in inner.items() if isinstance(item, str)}
    counts = (row.get("token_counts") or [None])[0] or {}
    tokens = {"new_tokens": counts.get("output_tokens"), "prompt_tokens": counts.get("input_tokens")}
    return LoggedSample(
        key=str(row["doc_id"]),
        prompt=text_of(row["input"]),
        target=(text_of(row["target"]),),
        output=text_of(row["filtered_resps"]),
        scores=scores,
        columns=columns,
        usage={name: count for name, count in tokens.items() if isinstance(count, int)},
    )
