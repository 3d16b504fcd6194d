from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from decoding.strategies.vcd import VCD
from experiments.config.config import load_config
from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.paired_sample import paired_samples
from experiments.grid.grid import expand
from experiments.running.run import run
from experiments.store.store import Store
from icl.types import Example, Sample

Config = Callable[..., dict[str, Any]]


def queries(count: int, groups: int = 0) -> list[Example]:
    return [Example(f"q{i}", (), "?", ("a",), group=f"g{i % groups}" if groups else None) for i in range(count)]


def test_each_query_has_a_partner_and_is_the_partner_of_one() -> None:
    for seed in range(3):
        partners = [partner.id for partner in paired_samples(queries(9), queries(9), seed) if partner is not None]
        assert sorted(partners) == [f"q{i}" for i in range(9)]
        assert all(other != f"q{i}" for i, other in enumerate(partners))
    assert paired_samples(queries(9), queries(9), 0) != paired_samples(queries(9), queries(9), 1)


def test_a_pair_does_not_depend_on_the_other_queries() -> None:
    together = paired_samples(queries(9), queries(9), 0)
    assert [paired_samples(queries(9), [query], 0)[0] for query in queries(9)] == together
    backwards = queries(9)[::-1]
    assert paired_samples(backwards, backwards, 0) == together[::-1]


def test_the_partner_is_of_another_group() -> None:
    all_queries = queries(9, groups=3)
    assert all(
        a.group != b.group
        for a, b in zip(all_queries, paired_samples(all_queries, all_queries, 0), strict=True)
        if b is not None
    )
    assert paired_samples(queries(4, groups=1), queries(4, groups=1), 0) == [None] * 4
    assert paired_samples(queries(1), queries(1), 0) == [None]


def samples(config: Mapping[str, Any], folder: Path) -> dict[str, list[Sample]]:
    """label of the decoding -> samples."""
    grid = expand(load_config(config))
    run(load_config(config), folder)
    store = Store(folder / "t")
    return {cell.labels["decoding"]: list(store.samples(cell.digest)) for cell in grid.cells}


def test_a_run_hands_each_sample_the_prompt_of_another_under_the_same_spec(mapping: Config, toy: str) -> None:
    nodes = ["vcd", {"name": "shuffled_negative", "of": "vcd"}]
    grid = expand(load_config(mapping(model=toy, grid={"decoding": nodes}, composer="interleaved", seeds=[0, 1])))
    task, specs = grid.tasks[0], prompt_specs(grid.cells)
    rows = list(build_contexts(Retrieval(task, grid.models[0]), specs, task.queries))
    prompts = {(item.example.id, item.spec.cell.seed): render(item).prompt for row in rows for item in row}
    for (name, seed), prompt in prompts.items():
        (other,) = paired_samples(task.queries, [query for query in task.queries if query.id == name], seed)
        assert prompt is not None
        assert prompt.paired_prompt is not None
        assert other is not None
        assert prompt.paired_prompt == prompts[other.id, seed]
        noised = VCD().branches(prompt.paired_prompt)[1]
        assert noised.key.query == other.id


def test_shuffled_negatives_are_the_same_however_a_run_is_cut(mapping: Config, toy: str, tmp_path: Path) -> None:
    config = mapping(model=toy, decoding={"name": "shuffled_negative", "of": {"name": "vcd", "beta": 0}})
    complete = samples(config, tmp_path / "whole")
    store = Store(tmp_path / "whole" / "t")
    for path in store.folder.glob("cells/*/*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    run(load_config(config), tmp_path / "whole")
    again = [sample for cell in expand(load_config(config)).cells for sample in store.samples(cell.digest)]
    (first,) = complete.values()
    assert len(first) == 6
    outputs = [{s["query"]: s.get("output", "") for s in some} for some in (first, again)]
    assert outputs[0] == outputs[1]
    assert not any(s.get("failed") for s in again)


def test_twice_the_demonstrations_are_shown_and_begin_with_the_arms_own(
    mapping: Config, toy: str, tmp_path: Path
) -> None:
    by_decoding = samples(mapping(model=toy, shots=1, grid={"decoding": ["greedy", "more_demonstrations"]}), tmp_path)
    few = {sample["query"]: sample for sample in by_decoding["greedy"]}
    for sample in by_decoding["more_demonstrations"]:
        assert len(sample["demos"]) == 2
        assert few[sample["query"]]["demos"][0] in sample["demos"]
        assert sample["prompt_digest"] != few[sample["query"]]["prompt_digest"]
        assert not sample.get("marks")


def test_a_pool_with_too_few_examples_shows_all_of_them_and_marks_the_sample(
    mapping: Config, toy: str, tmp_path: Path
) -> None:
    task = expand(load_config(mapping(model=toy))).tasks[0]
    shots = task.pool_size - 2
    (own,) = samples(mapping(model=toy, shots=shots, decoding="more_demonstrations"), tmp_path).values()
    for sample in own:
        assert not sample.get("failed")
        assert shots < len(sample["demos"]) < 2 * shots
        assert sample["marks"] == [f"{len(sample['demos'])} demonstrations of {2 * shots}, as many as the pool has"]
