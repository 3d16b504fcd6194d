"""Cells that answer alike by construction, and what a comparison makes of them."""

import pandas as pd
import pytest

from experiments.api import run
from experiments.stats.compare import compare, verdicts
from experiments.store.run_state import equivalence_digest


def cell(**changed):
    """A cell.json as it was written."""
    arm = {"strategy": {"name": "vcd", "alpha": 1}, "sampler": {"name": "greedy"}}
    cell = {
        "seed": 0,
        "task": {"name": "shapes"},
        "model_digest": "m",
        "shots": 2,
        "retriever": {"name": "random"},
    }
    cell |= {"order": {"name": "reversed"}, "decoding": arm, "answer_mode": "generate", "max_new_tokens": 16}
    return cell | changed


def arm(strategy, sampler="greedy", **more):
    return {
        "strategy": {"name": strategy} if isinstance(strategy, str) else strategy,
        "sampler": {"name": sampler},
        **more,
    }


def test_what_cannot_matter_to_a_cell_decides_nothing():
    plain, other = equivalence_digest(cell()), {"name": "random"}
    assert equivalence_digest(cell(labels={"decoding": "x"}, control=True)) == plain
    assert equivalence_digest(cell(order=other)) != plain
    assert equivalence_digest(cell(order=other, shots=1)) == equivalence_digest(cell(shots=1)) != plain
    assert equivalence_digest(cell(order={"name": "mine.py:Mine"}, shots=1)) != equivalence_digest(cell(shots=1))
    twice = cell(decoding=arm("more_demonstrations"), shots=1)
    assert equivalence_digest(twice | {"order": other}) != equivalence_digest(twice)  # it shows two
    for changed in (
        {"seed": 1},
        {"model_digest": "n"},
        {"shots": 4},
        {"max_new_tokens": 8},
        {"max_thinking_tokens": 8},
        {"answer_mode": "options"},
    ):
        assert equivalence_digest(cell(**changed)) != plain


def test_stop_strings_decide_answers_and_an_incomplete_description_has_no_digest():
    digests = {equivalence_digest(cell(**more)) for more in ({}, {"stop_strings": ["."]}, {"stop_strings": [","]})}
    assert len(digests) == 3
    assert all(len(digest) == 16 for digest in digests)
    assert equivalence_digest(cell(shots=None)) == equivalence_digest(cell(decoding="greedy")) == ""


def test_a_sampler_is_not_read_where_options_are_scored_and_their_norm_where_answers_are_written():
    options = [cell(answer_mode="options", decoding=arm("vcd", sampler)) for sampler in ("greedy", "sampling")]
    assert len({*map(equivalence_digest, options)}) == 1
    processed = arm("vcd", logits_processors=[{"name": "repetition_penalty", "penalty": 2}])
    assert equivalence_digest(cell(answer_mode="options", decoding=processed)) == equivalence_digest(options[0])
    assert equivalence_digest(cell(decoding=processed)) != equivalence_digest(cell())
    normed = [
        cell(answer_mode=score, decoding=arm("vcd", **more))
        for score in ("generate", "options")
        for more in ({}, {"normalize": "bytes"})
    ]
    assert len({*map(equivalence_digest, normed)}) == 3


def test_a_decoding_that_is_greedy_anyway_is_decided_as_greedy():
    assert equivalence_digest(cell(decoding=arm({"name": "mask_only", "of": {"name": "vcd"}}))) == equivalence_digest(
        cell(decoding=arm("greedy"))
    )
    assert equivalence_digest(cell(decoding=None)) == ""


def frame(**arms):
    """decoding -> (decided_by, scores)."""
    rows = [
        {"query": f"q{i}", "seed": 0, "group": None, "shots": 2, "decoding": name, "decided_by": decided, "lenient": v}
        for name, (decided, scores) in arms.items()
        for i, v in enumerate(scores)
    ]
    return pd.DataFrame(rows)


LOW, HIGH = [0.0] * 12, [1.0] * 8 + [0.0] * 4


def test_an_arm_that_is_its_reference_by_construction_is_not_tested_and_costs_no_power():
    alone = compare(frame(greedy=("a", LOW), vcd=("b", HIGH)), {"decoding": "greedy"})
    table = compare(
        frame(greedy=("a", LOW), vcd=("b", HIGH), mask_only=("a", LOW), other=("a", LOW)), {"decoding": "greedy"}
    ).set_index("decoding")
    assert table.loc["vcd", ["p_corrected", "family"]].tolist() == alone[["p_corrected", "family"]].iloc[0].tolist()
    assert table.loc["mask_only", "by_construction"]
    assert table.loc[["mask_only", "other"], ["p", "p_corrected"]].isna().all(axis=None)
    assert verdicts(table.assign(difference=0.1).loc[["mask_only"]]) == ["open"]


def test_an_arm_that_happens_to_answer_alike_is_tested():
    table = compare(frame(greedy=("a", LOW), vcd=("b", HIGH), cad=("c", LOW)), {"decoding": "greedy"})
    assert table.set_index("decoding").loc["cad", ["p", "family"]].tolist() == [1, 2]


def test_the_same_comparison_twice_counts_once():
    arms = frame(greedy=("a", LOW), vcd=("b", HIGH), again=("b", HIGH), cad=("c", [1.0] * 6 + [0.0] * 6))
    table = compare(arms, {"decoding": "greedy"}).set_index("decoding")
    assert set(table["family"]) == {2}
    assert table.loc["vcd", "p_corrected"] == table.loc["again", "p_corrected"] == pytest.approx(2 * 2 / 2**8)


def test_a_run_tells_its_controls_under_greedy_decoding(tmp_path, mapping, capsys):
    from experiments.cli.main import main

    arms = ["greedy", "vcd", {"name": "mask_only", "of": "vcd"}, {"name": "temperature_matched", "of": "vcd"}]
    config = mapping(name="x", model={"name": "hf", "path": "tiny"}, grid={"shots": [1], "decoding": arms})
    made = run(config, runs=tmp_path, quiet=True)
    assert made.samples().groupby("decoding")["decided_by"].first().nunique() == 2
    assert main(["compare", str(tmp_path / "x"), "--to", "decoding=greedy"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 arms: the same as the reference by construction, not tested." in out
    assert "Holm" not in out  # one comparison is left


OWN = """
from dataclasses import dataclass

from decoding.strategies.vcd import VCD


@dataclass(frozen=True)
class Mine(VCD):
    '''A contrast with a formula of its own.'''

    def combine(self, logits, step):
        return 3 * logits[0] - 2 * logits[1]


@dataclass(frozen=True)
class Picky(Mine):
    '''A contrast with a mask of its own, which may rule out the best token.'''

    def mask(self, reference):
        return reference < reference.amax(-1, keepdim=True)
"""


def test_controls_of_a_strategy_named_by_a_path_are_the_same_by_construction(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    owns = [{"name": name, "of": {"name": f"own.py:{cls}"}} for cls in ("Mine", "Picky")
            for name in ("mask_only", "temperature_matched")]  # fmt: skip
    grid = {"decoding": ["greedy", {"name": "own.py:Mine"}, *owns]}
    config = {"name": "t", "task": {"name": "existence", "queries": 6, "pool_size": 6}, "shots": 2, "grid": grid}
    samples = run({**config, "model": {"name": "hf", "path": "tiny"}}, runs=tmp_path, quiet=True).samples()
    table = compare(samples, {"decoding": "greedy"})
    same = {row["decoding"]: row["by_construction"] for row in table.to_dict("records")}
    assert same == {name: name.endswith("(of=own.py:Mine)") for name in same}
    assert len(same) == 5
    of_greedy = samples[samples["decoding"] == "greedy"].set_index("query")["output"]
    for name in (name for name in same if same[name]):
        assert samples[samples["decoding"] == name].set_index("query")["output"].equals(of_greedy)
