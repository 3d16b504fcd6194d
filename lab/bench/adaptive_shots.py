"""Fewer demonstrations for clear queries: accuracy and tokens of the strategy `adaptive_shots`, against fixed shots.

The model `tiny` answers binding with 4 names at 0 to 8 random shots, and matching at the nearest ones. A rule takes the
first number of shots with a clear answer: by the margin, by the entropy, or at random as often as these. `fit` sets the
margin on other queries. Its scores are those of the fixed shots, so no rule needs a run of its own. Tokens are those of
the prompt that answers; `read` counts all prompts up to it, without a prefix cache.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.bench import Row, rounds
from lab.bench.learned import compare

SHOTS = (0, 1, 2, 4, 8)
STUDIES: Mapping[str, Mapping[str, Any]] = {
    "binding": {"task": {"name": "binding", "ways": 4}, "retriever": "random", "order": "as_retrieved"},
    "matching": {"task": {"name": "matching"}, "retriever": "knn", "order": "reversed"},
}
SEEDS = 3
FITTED = 100
"""Queries that fit the margin."""


def rows(queries: int = 200) -> Iterator[Row]:
    """For each task, a row for each number of shots and each rule. queries: those that judge."""
    for name, study in STUDIES.items():
        task = {**study["task"], "queries": FITTED + (queries if rounds(2) > 1 else 20)}
        yield from ((f"{name}: {what}", figure, "") for what, figure in compare_rules({**study, "task": task}))


def compare_rules(study: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The row of each number of shots and each rule."""
    from decoding.strategies.adaptive_shots import AdaptiveShots, first_clear
    from experiments.api import run
    from icl import torch

    study = {
        **study, "name": "shots", "model": {"name": "hf", "path": "tiny"}, "seeds": list(range(rounds(SEEDS))),
        "max_new_tokens": 4, "answer_mode": "options", "grid": {"shots": list(SHOTS)},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        frame: Any = run(study, runs=Path(folder), quiet=True).samples()
    frame["tokens"] = [usage["prompt_tokens"] for usage in frame["usage"]]
    table = frame.sort_values(["query", "seed"]).groupby("shots")
    scores = [[[one[name] for name in sorted(one)] for one in own["option_scores"]] for _, own in table]
    logprobs = torch.tensor(scores).log_softmax(-1)  # [rungs, samples, options]
    (_, first), *_ = table
    gold = [sorted(one).index(answer) for one, (answer, *_) in zip(first["option_scores"], first["gold"], strict=True)]
    right, tokens = (np.array([own[name] for _, own in table], float) for name in ("option", "tokens"))
    is_fit = np.arange(right.shape[1]) < FITTED * rounds(SEEDS)
    rungs = {f"{shots} shots": np.full(right.shape[1], rung) for rung, shots in enumerate(SHOTS)}
    for rule in ("margin", "entropy"):
        strategy = AdaptiveShots(ladder=SHOTS[:-1], clear_by=rule)
        strategy = strategy.fit(logprobs[:, is_fit].transpose(0, 1), [gold[i] for i in np.flatnonzero(is_fit)])
        rungs[rule] = first_clear(strategy.clarity(logprobs), strategy.margin).numpy()
    shares = np.array(strategy.shares)
    rungs["random, as often"] = np.random.default_rng(0).choice(len(SHOTS), len(is_fit), p=shares / shares.sum())
    every, entropy = np.flatnonzero(~is_fit), right[rungs["entropy"], range(len(is_fit))]
    clusters = [first["query"].iloc[i] for i in every]
    for name, own in rungs.items():
        used = tokens[own, range(len(own))]
        read = used if "shots" in name else tokens.cumsum(axis=0)[own, range(len(own))]
        pairs = [(right[own[i], i], entropy[i]) for i in every]
        accuracy, difference = compare(pairs, clusters)
        figure = f"{accuracy:.3f}; entropy {difference}" if name != "entropy" else f"{accuracy:.3f}"
        figure += f"; tokens {used[every].mean():.0f}, read {read[every].mean():.0f}"
        yield f"{name}, mean {np.array(SHOTS)[own[every]].mean():.1f} shots, {len(every)} samples", figure
