"""Is the Banzhaf value of a demonstration better feedback than its score alone? `learned` with each, at equal calls.

Both fits score 8 prompts for each training query: its 8 candidates alone, or 8 random sets of them, with 4
demonstrations on average. A seed has its own images, pool and fits, and both heads answer the same test queries with 4
demonstrations. Runs stay in build/bench/learned.
"""

from collections.abc import Iterator

from lab.bench import Row, rounds
from lab.bench.learned import SEEDS, TASKS, answers, compare, fitted, runs_folder, with_values

NAMES = ("two rules", "misleading half")
"""Tasks of `learned.TASKS`."""


def rows(train: int = 200, test: int = 200) -> Iterator[Row]:
    """A row for each task. train, test: numbers of queries."""
    if rounds(SEEDS) == 1:
        train, test = 60, 10
    with runs_folder() as folder:
        for name in NAMES[: rounds(len(NAMES))]:
            pairs: list[tuple[float, float]] = []
            for seed in range(rounds(SEEDS)):
                study = {
                    "name": "test", "task": with_values(TASKS[name][0], seed=seed, queries=test), "shots": 4,
                    "seeds": [seed], "model": {"name": "hf", "path": "tiny"}, "max_new_tokens": 4,
                    "answer_mode": "options",
                }  # fmt: skip
                right: list[dict[str, float]] = []
                for feedback in ("single", "banzhaf"):
                    own = folder / f"{feedback}, {name}, {train} training queries, {test} test queries, {seed}"
                    head = fitted(study, train, {"name": "learned", "feedback": feedback}, own)
                    right += answers({**study, "retriever": {"name": "learned", "fitted": str(head)}}, own).values()
                single, banzhaf = right
                pairs += [(single[query], banzhaf[query]) for query in single]
            accuracy, difference = compare(pairs)
            what = f"{name}, {8 * train:,} calls a seed: accuracy with single feedback; banzhaf minus it"
            yield what, f"{accuracy:.3f}; {difference}", ""
