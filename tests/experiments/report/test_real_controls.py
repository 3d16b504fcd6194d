"""What the runner writes about controls is what the report reads."""

from experiments.api import run
from experiments.report.view import view
from experiments.stats.findings import findings


def test_default_controls_of_a_real_run_are_found_and_tested(mapping, toy, tmp_path):
    keys = {k: v for k, v in mapping(controls="default").items() if k != "model"}
    made = run({**keys, "model": {"name": toy}, "grid": {"decoding": ["greedy", "vcd"]}}, runs=tmp_path, quiet=True)
    seen = view(made)
    assert set(seen.controls) == {"vcd"}
    assert len(seen.controls["vcd"]) == 9
    assert {"self_consistency", "more_demonstrations"} < set(seen.controls["vcd"])
    found = findings(seen.scores, seen.metric, axes=seen.axes, controls=seen.controls)
    (told,) = [one for one in found if one.topic == "Decoding"]
    assert told.claim.startswith("vcd ")
    assert all(f"{name} (" in told.more for name in seen.controls["vcd"])
    assert [one.topic for one in seen.findings if one.topic != "Vote"] == ["Answers"]  # random weights name no option
