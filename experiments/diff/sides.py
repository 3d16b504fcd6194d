"""The words of `icl doctor backends` for a side: a model of the study, its keys, a server, a file of `--save`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config import AXES, Document, apply_overrides, find_config, parse_config, parse_yaml, read_document
from experiments.contexts.contexts import PromptSpec, Retrieval, build_contexts, render
from experiments.grid import Cell, check_data, expand
from icl import PlanError, Prompt, entries

PROMPT_KEYS = (
    *("name", "task", "model", "shots", "retriever", "rerankers", "rerank_candidates", "order", "transforms"),
    *("composer", "seeds"),
)
"""The keys that decide a prompt. Others, such as the decoding, may not suit both models."""


@dataclass(frozen=True)
class Live:
    """A side whose model runs here, with one cell of its study."""

    name: str
    cell: Cell

    def prompts(self, count: int) -> dict[str, Prompt]:
        """The prompts of the first queries. Raises PlanError if one cannot be composed."""
        cell, made = self.cell, dict[str, Prompt]()
        queries = list(cell.task.queries[:count])
        retrieval = Retrieval(cell.task, cell.model)
        for (item,) in build_contexts(retrieval, [PromptSpec((cell,))], queries):
            rendered = render(item)
            if rendered.prompt is None:
                raise PlanError(f"{self.name}: query '{item.example.id}' has no prompt: {rendered.failure}")
            made[f"query {item.example.id}"] = rendered.prompt
        return made


def study(file: Path, overrides: Sequence[str]) -> Document:
    """The study with one value of each axis."""
    return one_point(apply_overrides(read_document(find_config(file)), overrides))


def one_point(document: Document) -> Document:
    """The document with the keys that decide prompts, the first value of each axis, and the most shots.

    Raises:
        ConfigError: A key or value of the document is wrong.
    """
    config = parse_config(document)
    rows = [dict(zip(config.zip, values, strict=True)) for values in zip(*config.zip.values(), strict=True)] or [{}]
    chosen = max(rows, key=lambda row: int(row.get("shots", 0)))
    chosen |= {axis: max(nodes) if axis == "shots" else nodes[0] for axis, nodes in config.grid.items()}
    data = {key: value for key, value in document.data.items() if key in PROMPT_KEYS}
    point = {axis: node for axis, node in chosen.items() if axis.partition(".")[0] in PROMPT_KEYS}
    data["seeds"] = list(config.seeds[:1])
    ordered = sorted(point.items(), key=lambda item: item[0] not in AXES)  # a component before its parameters
    return apply_overrides(replace(document, data=data), dict(ordered))


def live_side(word: str, document: Document) -> Live:
    """A side of the study. Raises ConfigError, DataError.

    Args:
        word: As the user writes it.
        document: Of `study`.
    """
    own = apply_overrides(document, overrides_of(word, document.data.get("model")))
    grid = expand(parse_config(one_point(own)))
    check_data(grid)
    return Live(word, grid.cells[0])


def overrides_of(word: str, node: Any) -> Sequence[str] | Mapping[str, Any]:
    """What a word changes of the study.

    Args:
        word: `vllm`, a checkpoint, `{name: hf, …}`, `model.dtype=bfloat16 composer=interleaved`, or URL#MODEL.
        node: The study's own model.

    Raises:
        ConfigError: The word is not YAML.
    """
    own = dict(node) if isinstance(node, Mapping) else {"name": node}
    if word.startswith(("http://", "https://")):
        url, _, name = word.partition("#")
        node_of_server = own if own["name"] == "remote" else {}
        return {"model": {**node_of_server, "name": "remote", "url": url, "model": name}}
    if "=" in word and not word.startswith("{"):
        return re.split(r"\s+(?=[\w.]+=)", word.strip())
    model, _ = parse_yaml(word, "icl doctor backends")
    if not isinstance(model, str):
        return {"model": model}
    is_name = model in entries("model") or ".py:" in model
    return {"model": {**own, "name": model} if is_name else {"name": "hf", "path": model}}
