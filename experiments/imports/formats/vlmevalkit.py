"""Predictions of VLMEvalKit: `MODEL_DATASET.xlsx`, `.tsv` or `.json`, or the `_result` file of its judge.

Written by `vlmeval.smp.file.dump`. Samples are paired by `index`. The folder names the model, as VLMEvalKit writes it:
`MODEL/MODEL_DATASET.tsv` or `MODEL/T20250101_G…/MODEL_DATASET.tsv`. A result file has the score `hit`. A file without
`hit` and `score` gets the text metrics `strict` and `lenient` of the prediction against `answer`. Rows with rotated
options (index + n * 1,000,000) are one cluster. Side files (.pkl) are never read: unpickling runs code.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.imports.logs import Log, LoggedSample, log_format
from icl import DataError, Example, Generation, build, pd

SCORES = ("hit", "score")
FAILED = "Failed to obtain answer"
"""The prediction that VLMEvalKit writes if the model gave none."""
ROTATION = 1_000_000
"""The difference of indices between rotations of one question's options."""
OPTIONS = "ABCDEFGHIJ"
RESULT = re.compile(r"(_(exact_matching|openai|(chatgpt|gpt|qwen)[^_]*))?_result$")
EXCEL_CELL = 32_767
"""Characters that a cell of an Excel file can have."""


@log_format("VLMEvalKit", r"(?!\.|results_).+_.+\.(xlsx|tsv|json)(?<!_results\.json)")
def read(path: Path) -> Log:
    """The log of one data set. Raises DataError if it is not a table of predictions."""
    rows = _rows(path)
    for column in ("index", "prediction"):
        if missing := [number for number, row in enumerate(rows, 1) if column not in row]:
            raise DataError(f"row {missing[0]} of {path} has no '{column}': it is no table of predictions.")
    indices = {str(row["index"]) for row in rows}
    name = RESULT.sub("", path.stem)
    model = next((folder.name for folder in path.absolute().parents if name.startswith(f"{folder.name}_")), None)
    model = model or name.partition("_")[0]
    return Log(
        path,
        name.removeprefix(f"{model}_"),
        tuple(_sample(row, indices) for row in rows),
        origin={"from": "VLMEvalKit", "version": None, "model_args": model, "date": None},
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError("it is no list of objects")
            return rows
        text: dict[str, Any] = {"dtype": str, "keep_default_na": False}
        frame = pd.read_excel(path, **text) if path.suffix == ".xlsx" else pd.read_csv(path, sep="\t", **text)
    except ImportError as error:
        raise DataError(
            f"{path} is an Excel file, and openpyxl is not installed. `pip install openpyxl`, or write predictions as "
            "text: PRED_FORMAT=tsv."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    if path.suffix == ".xlsx" and (cut := sum(len(str(row.get("prediction"))) >= EXCEL_CELL for row in rows)):
        raise DataError(f"{path}: Excel has cut {cut} predictions at {EXCEL_CELL:,} characters. Use PRED_FORMAT=tsv.")
    return rows


def _sample(row: Mapping[str, Any], indices: set[str]) -> LoggedSample:
    prediction = str(row["prediction"])
    answer = () if row.get("answer") in (None, "") else (str(row["answer"]),)
    options = [f"{letter}. {row[letter]}" for letter in OPTIONS if isinstance(row.get(letter), str) and row[letter]]
    scores = {name: value for name in SCORES if name in row and (value := _number(row[name])) is not None}
    if not scores and answer:
        example = Example(str(row["index"]), (), str(row.get("question", "")), answer)
        judged = {name: build("metric", name).score(Generation(prediction), example) for name in ("strict", "lenient")}
        scores = {name: value for name, value in judged.items() if value is not None}
    return LoggedSample(
        key=str(row["index"]),
        prompt="\n".join([str(row.get("question", "")), *options]),
        target=answer,
        output=prediction,
        scores=scores,
        columns={name: str(value) for name, value in row.items() if name not in ("index", "prediction", "image")},
        group=_first_rotation(str(row["index"]), indices),
        failed=FAILED if FAILED in prediction else None,
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _first_rotation(index: str, indices: set[str]) -> str | None:
    """The index of the question whose options this row rotates, or None if no row of it is there."""
    if not index.isdecimal() or not any(str(int(index) + ROTATION * k) in indices for k in (-1, 1)):
        return None
    return str(int(index) % ROTATION)
