"""Logs of lm-evaluation-harness: `samples_TASK_DATE.jsonl`, with `results_DATE.json` next to it.

Written by `EvaluationTracker.save_results_samples` (lm-eval 0.4). Samples are paired by `doc_id`. A task with several
filters has a line per filter and query: its metrics are then named `METRIC,FILTER`, as in the results.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.imports.logs import Log, LoggedSample, json_lines, json_object, log_format, score_of, task_log, text_of

PATTERN = r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[^_]+)\.jsonl"


@log_format("lm-eval", PATTERN)
def read(path: Path) -> Log:
    """The log of one task. Raises DataError if a line is not a sample."""
    name = re.fullmatch(PATTERN, path.name)
    date, task = (name["date"], name["task"]) if name else ("", path.stem)
    results = json_object(path.with_name(f"results_{date}.json"))
    rows = json_lines(path, ("doc_id", "arguments", "target", "filtered_resps"))
    filters = {str(row.get("filter", "none")) for row in rows}
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_query.setdefault(str(row["doc_id"]), []).append(row)
    origin = {
        "from": "lm-eval",
        "version": results.get("lm_eval_version"),
        "model_args": (results.get("config") or {}).get("model_args"),
        "date": date,
    }
    samples = (_sample(key, of_query, len(filters) > 1) for key, of_query in by_query.items())
    log = task_log(path, task, samples, results, origin)
    filtered = {f"{metric},{name}": value for metric, value in log.better.items() for name in filters}
    return replace(log, better={**log.better, **filtered})


def _sample(key: str, rows: list[dict[str, Any]], is_filtered: bool) -> LoggedSample:
    first = rows[0]
    scores = {
        f"{metric},{row['filter']}" if is_filtered else metric: score
        for row in rows
        for metric in row.get("metrics", ())
        if (score := score_of(row.get(metric))) is not None
    }
    doc = first.get("doc")
    return LoggedSample(
        key=key,
        prompt=_prompt(first["arguments"]),
        target=(text_of(first["target"]),),
        output=text_of(first["filtered_resps"]),
        scores=scores,
        columns={str(k): v for k, v in doc.items() if isinstance(v, str | int)} if isinstance(doc, dict) else {},
    )


def _prompt(arguments: Any) -> str:
    """The text of the first request: `gen_args_0.arg_0`, or the first item of a list."""
    if isinstance(arguments, dict):
        first = arguments.get("gen_args_0")
        return text_of(first.get("arg_0") if isinstance(first, dict) else first)
    return text_of(arguments[0][0] if isinstance(arguments, list) and arguments and arguments[0] else arguments)
