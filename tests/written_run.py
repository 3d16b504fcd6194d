"""Fixtures: a run directory as a finished run leaves it, through the store, with scores drawn from known chances."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from rich.console import Console

from experiments.config.keys import AXES
from experiments.report.page import ReportFiles, write_report
from experiments.report.section import Section
from experiments.results.loaded_run import Run, load_run
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from experiments.store.store import SampleWriter, Store
from icl.images import Image
from icl.types import Sample

COLORS = ("red", "green", "blue", "gold", "purple", "teal")


def decoded(name: str, **parameters: Any) -> dict[str, Any]:
    """The canonical node of a decoding arm."""
    return {"strategy": {"name": name, **parameters}, "sampler": {"name": "greedy"}}


GREEDY, VCD = decoded("greedy"), decoded("vcd", alpha=1.0)
ONE_ARM: dict[str, Any] = {"tasks": ("shapes",), "seeds": (0,), "shots": (0,), "decodings": (GREEDY,)}
MASK_ONLY = decoded("mask_only", of=VCD["strategy"])
CHANCES = {"shapes": (0.86, 0.002), "binding, 2-way": (0.5, 0.12)}
"""task -> (accuracy at 0 shots, gain for each doubling of 1 + shots)."""


@dataclass(frozen=True)
class _How:
    """hostile: text in every field that a data set or a model may fill. failing: query id -> reason.

    better: which way of the scores is said to be good; '': an older run, which does not say. votes: how each metric
    judges the vote, 1 always right; none: an older run, which has one judgment. saying: task -> what every
    arm says to everything there, and is wrong. traced: every step's branches are kept, as they are for two words.
    """

    hostile: str = ""
    failing: Mapping[str, str] = field(default_factory=dict)
    better: str = ""
    votes: Mapping[str, float] = field(default_factory=dict)
    saying: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False


def write_run(
    folder: Path,
    *,
    tasks: Sequence[str] = tuple(CHANCES),
    queries: int = 20,
    seeds: Sequence[int] = (0, 1),
    shots: Sequence[int] = (0, 2, 4),
    retrievers: Sequence[str] = ("random", "knn"),
    decodings: Sequence[Any] = (GREEDY, VCD, MASK_ONLY),
    models: Sequence[Any] = ("tiny",),
    **how: Any,
) -> Run:
    """how: see `_How`."""
    texts = _How(**how)
    store = Store(folder)
    images = {name: _image(folder, name) for name in COLORS}
    compare = {"to": {"decoding": "greedy"}, "metric": "lenient", "correction": "holm"}
    digests = []
    with SampleWriter(store) as writer:
        for cell in _cells(tasks, seeds, shots, retrievers, decodings, models=models):
            digest = f"{hash_of(json.dumps(cell, sort_keys=True)):016x}"
            digests.append(digest)
            store.write_cell(digest, {**cell, "labels": _labels(cell)})
            writer.append(digest, [_sample(cell, digest, i, images, texts) for i in range(queries)])
    info = {"name": folder.name, "config": {"compare": compare}, "cells": digests, "sessions": _sessions()}
    metric = {"better": texts.better} if texts.better else {}
    store.write_run({**info, "metrics": {"lenient": metric, "strict": metric}})
    return load_run(folder)


@pytest.fixture(scope="session")
def writer() -> Callable[..., Run]:
    """`writer(folder, queries=8)`: for fixtures that outlive a test."""
    return write_run


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunView]:
    """`viewed(queries=8)`: the view of a synthetic run, computed once for all tests, which must leave it as it is."""
    views: dict[str, RunView] = {}

    def get(**how: Any) -> RunView:
        key = repr(sorted(how.items()))
        if key not in views:
            views[key] = view_run(write_run(tmp_path_factory.mktemp("viewed") / "run", **how))
        return views[key]

    return get


@dataclass(frozen=True)
class Page:
    """A written report: the view of its run, its files, and the text of its page."""

    view: RunView
    files: ReportFiles
    html: str


@pytest.fixture(scope="session")
def paged(viewed: Callable[..., RunView]) -> Callable[..., Page]:
    """`paged(queries=8)`: the report of the view that `viewed` gives, written once for all tests."""
    pages: dict[str, Page] = {}

    def get(**how: Any) -> Page:
        key = repr(sorted(how.items()))
        if key not in pages:
            files = write_report(view := viewed(**how))
            pages[key] = Page(view, files, files.report.read_text(encoding="utf-8"))
        return pages[key]

    return get


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Run]:
    """`written(queries=8, hostile="<b>")`: a synthetic run, read back."""
    return lambda name="run", **how: write_run(tmp_path / name, **how)


def printed(section: Section, width: int) -> str:
    """What a terminal of this width shows of a section."""
    out = io.StringIO()
    section.print(Console(file=out, width=width))
    return out.getvalue()


def page_samples(coded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of a report page's columns, as its script reads them."""
    return [
        {name: values[codes[i]] for name, (values, codes) in coded["columns"].items() if codes[i] >= 0}
        for i in range(coded["size"])
    ]


def _cells(tasks: Any, seeds: Any, shots: Any, retrievers: Any, decodings: Any, *, models: Any) -> list[dict[str, Any]]:
    return [
        {"task": t, "model": m, "seed": s, "shots": k, "retriever": r if k else None, "decoding": d}
        for t in tasks
        for m in models
        for d in decodings
        for k in shots
        for r in (retrievers if k else retrievers[:1])
        for s in seeds
    ]


def _labels(cell: Mapping[str, Any]) -> dict[str, Any]:
    d = cell["decoding"]["strategy"]
    label = f"{d['name']}({d['of']['name']})" if "of" in d else d["name"]
    model = cell["model"]
    name = model if isinstance(model, str) else f"{model['path']}(quantize={model['quantize']})"
    own = {"retriever": cell["retriever"] or "none", "decoding": label, "model": name}
    return {**dict.fromkeys(AXES, "none"), **cell, **own}


def _sample(cell: Mapping[str, Any], digest: str, i: int, images: Mapping[str, str], how: "_How") -> Sample:
    query, seed, k, hostile = f"{cell['task']}-{i:04d}", cell["seed"], cell["shots"], how.hostile
    key = json.dumps([query, seed, k, cell["retriever"]])
    draw = np.random.default_rng(hash_of(key))
    gold = COLORS[hash_of(query) % len(COLORS)]
    demo_answers = [str(name) for name in draw.choice(COLORS, size=k)]
    base, slope = CHANCES.get(cell["task"], (0.6, 0.05))
    chance = base + slope * np.log2(1 + k) + (0.04 if cell["retriever"] == "knn" else 0)
    luck = np.random.default_rng(hash_of(key + json.dumps(cell["decoding"]) + _bits(cell)))
    fixed = how.saying.get(cell["task"])
    right = fixed is None and luck.random() < 0.7 * chance + 0.3 * (draw.random() < chance)
    wrong = [name for name in COLORS if name != gold]
    answer = fixed or (gold if right else str(luck.choice(wrong)))
    question = f"[user] <image>What color is the shape?{hostile}"
    common: dict[str, Any] = {
        "cell": digest,
        "query": query,
        "seed": seed,
        "group": f"image {i // 2}",
        "question": f"What color is the shape?{hostile}",
        "gold": (f"{gold}{hostile}",),
        "options": tuple(f"{name}{hostile}" for name in COLORS),
        "demos": tuple(
            (f"pool-{j}{hostile}", 0.9 - 0.05 * j, f"{name}{hostile}") for j, name in enumerate(demo_answers)
        ),
    }
    if query in how.failing:
        return Sample(**common, failed=how.failing[query])
    return Sample(
        **common,
        prompt="\n".join([*(f"{question}\n[assistant] {name}{hostile}" for name in demo_answers), question]),
        prompt_digest=f"{hash_of(key):x}",
        images=tuple(images[name] for name in (*demo_answers, gold)),
        image_of=(*range(len(demo_answers)), -1),
        output=f"{answer}{hostile}",
        finish="stop",
        scores={"lenient": float(right), "strict": float(right and luck.random() < 0.95)},
        baselines={"vote": how.votes or float(max(demo_answers, key=demo_answers.count) == gold)}
        if demo_answers
        else {},
        trace={"plausible_tokens": (2.0, 1.0), "changed": (0.0, 1.0)}
        if how.traced
        else {"divergence": (0.1, 0.4, 0.2)},
        steps=_steps(answer, hostile) if how.traced else {},
        usage={"prompt_tokens": 40 + 60 * k, "new_tokens": 3, "forwards": 3},
        meta={"type": f"color{hostile}"},
    )


def _bits(cell: Mapping[str, Any]) -> str:
    return "" if isinstance(cell["model"], str) else str(cell["model"]["quantize"])


def _steps(answer: str, hostile: str) -> dict[str, Any]:
    """Two branches that agree at the first of two steps, and have nothing in common at the second."""
    return {
        "words": [f"{answer}{hostile}", f"other{hostile}", ""],
        "chosen": [0, 2],
        "top": [[[0, 1], [0, 1], [0, 1]], [[1, 2], [2, 1], [2]]],
        "p": [[[0.7, 0.3], [0.7, 0.3], [0.7, 0.3]], [[0.999, 0.001], [0.999, 0.001], [1.0]]],
        "entropy": [[0.61, 0.61, 0.61], [0.01, 0.01, 0.0]],
        "js_divergence": [[0.0], [0.686]],
        "weights": [[2.0, -1.0]],
    }


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _image(folder: Path, color: str) -> str:
    image = PILImage.new("RGB", (48, 48), "white")
    image.paste(color, (10, 10, 38, 38))
    digest = Image.from_pil(image).digest
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image.save(folder / "images" / f"{digest}.png")
    return digest


def _sessions() -> list[dict[str, Any]]:
    counters = {"images_encoded": 3140, "num_images": 28260, "prefill_tokens": 1_203_440, "forwards": 5210}
    savings = {"prefills_saved": 40, "prompt_tokens_saved": 12_000, "tokens": 300, "tokens_saved": 90}
    work = {"eager": 20, "lazy": 80, "gated": 0, "contrasts": 100, "forwards_saved": 150, **savings}
    arms = {"counters": counters, "arms": {"vcd": work}}
    return [{"start": "2026-01-02T03:04:05", "end": "2026-01-02T03:06:15", **arms}]
