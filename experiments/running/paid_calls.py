"""Model calls that are paid once. Each line of the file has the scores of one prompt's options:

    {"key": …, "query": …, "demos": […], "scores": {option: log-probability}, "tokens": …}

The key is a digest of the model, the decoding, the prompt and the options, so settings can share a file. Each line is
written as soon as its scores are known, so a killed command continues and repeats no call. For a question without
options, its accepted answers are scored instead.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from decoding import Counters
from experiments.contexts.contexts import PromptItem
from experiments.grid import Cell
from experiments.running.generation import Answer, SampleRequest, answer
from experiments.store.store import report_write_errors, truncate_partial_line
from experiments.terminal.progress import ReportProgress
from icl import Example, ModelError, StoreError, canonical_digest
from icl.metrics import accepted_probability, is_accepted

CHUNK = 256
"""Calls that are sent together."""

Scores = Mapping[str, float]
"""Option -> log-probability. An option that an endpoint does not list has minus infinity."""


class PaidCalls:
    """The calls of one setting.

    Args:
        path: The file. It is created if it does not exist.
        cell: The cell with the model, the decoding and the intervention of the calls.
        report: Reports progress.
    """

    what = "calls"  # the label of the calls in the progress

    def __init__(self, path: Path, cell: Cell, report: ReportProgress) -> None:
        self.path, self.cell, self.report = path, replace(cell, answer_mode="options"), report
        decoding = [cell.decoding.config, cell.config["intervene"], cell.max_thinking_tokens]
        self.setting = canonical_digest([cell.model.digest, decoding])[:16]
        self.stored = _read(path)
        self.used: dict[str, None] = {}
        """Keys of the requested calls, also of those that were stored before."""
        self.paid = 0
        """Number of calls that this process has made."""

    @property
    def tokens(self) -> int:
        """The number of prompt tokens of the requested calls."""
        return sum(int(self.stored[key]["tokens"]) for key in self.used)

    def scores(self, items: Sequence[PromptItem]) -> list[Scores | str]:
        """The scores of each prompt's options, or why there are none. Makes the calls that are not stored.

        Args:
            items: Rendered prompts.

        Raises:
            ModelError: A score is not finite.
        """
        self.cell.model.load()
        requests = [self._request(item) for item in items]
        keys = [None if request is None else self._key(request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key is not None and request is not None and key not in self.stored
        }
        failures = self._pay(missing)
        self.used |= dict.fromkeys(key for key in keys if key is not None and key in self.stored)
        return [
            str(item.failure) if key is None else self.stored[key]["scores"] if key in self.stored else failures[key]
            for key, item in zip(keys, items, strict=True)
        ]

    def _request(self, item: PromptItem) -> SampleRequest | None:
        prompt, example = item.prompt, item.example
        if prompt is None:
            return None
        if not is_choice(example):
            item = replace(item, example=replace(example, options=example.answers))
        return SampleRequest(self.cell, item, prompt)

    def _key(self, request: SampleRequest) -> str:
        paired = request.prompt.paired_prompt
        read = [request.prompt.digest, paired.digest if paired else None, request.options]
        return canonical_digest([self.setting, *read])[:32]

    def _pay(self, missing: Mapping[str, SampleRequest]) -> dict[str, str]:
        """Makes the calls. Key -> why there is no answer."""
        keys = {id(request): key for key, request in missing.items()}
        requests, failures, paid_before = list(missing.values()), dict[str, str](), self.paid
        not_finite: list[str] = []
        with report_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:

            def store(request: SampleRequest, result: Answer) -> None:
                key, query = keys[id(request)], request.item.example.id
                if isinstance(result, str):
                    failures[key] = result
                elif not np.isfinite(np.max(list(result.option_scores.values()))):
                    not_finite.append(f"query '{query}': the model scores its options {result.option_scores}.")
                else:
                    demos = [demo.example.id for demo in request.item.context.demos]
                    line: dict[str, Any] = {"key": key, "query": query, "demos": demos}
                    line |= {"scores": dict(result.option_scores), "tokens": result.usage.prompt_tokens}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    self.stored[key] = line
                    self.paid += 1
                    self.report(self.what, self.paid - paid_before, len(requests))

            for start in range(0, len(requests), CHUNK):
                answer(self.cell.model, requests[start : start + CHUNK], Counters(), store)
                if not_finite:
                    raise ModelError(f"{not_finite[0]} Scores must be finite: load the model in another dtype.")
        return failures


def is_choice(example: Example) -> bool:
    """Whether an accepted answer is one of the options. Other questions are open."""
    return len(example.options) > 1 and any(is_accepted(option, example.answers) for option in example.options)


def gold_probability(scores: Scores, example: Example) -> float:
    """p(gold): of the accepted answers among the options, or of the best accepted answer to an open question.

    Args:
        scores: Log-probabilities of the options, or of the accepted answers to an open question.
        example: The query with its accepted answers.
    """
    return accepted_probability(scores, example.answers) if is_choice(example) else float(np.exp(max(scores.values())))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The calls by key, after a partial last line is cut off. Raises StoreError for a damaged line."""

    def parse(raw: bytes) -> dict[str, Any] | None:
        try:
            line = json.loads(raw)
            return {**line, "scores": {**line["scores"]}, "tokens": int(line["tokens"]), "key": line["key"]}
        except (ValueError, KeyError, TypeError):
            return None

    with report_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(path, parse)
        lines = path.read_bytes().splitlines() if path.is_file() else []
    calls = {}
    for number, raw in enumerate(lines, 1):
        if (line := parse(raw)) is None:
            raise StoreError(f"line {number} of {path} is damaged. Remove the line: its call is then made again.")
        calls[line["key"]] = line
    return calls
