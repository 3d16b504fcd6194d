"""What the runner writes about controls is what the report reads."""

from experiments.api import run
from experiments.report.view import view


def test_default_controls_of_a_real_run_are_found_and_tested(mapping, toy, tmp_path):
    keys = {k: v for k, v in mapping(controls="default").items() if k != "model"}
    made = run({**keys, "model": {"name": toy}, "grid": {"decoding": ["greedy", "vcd"]}}, runs=tmp_path, quiet=True)
    seen = view(made)
    assert set(seen.controls) == {"vcd"}
    assert len(seen.controls["vcd"]) == 5
    (told,) = [one for one in seen.findings if one.topic == "Decoding"]
    assert told.claim.startswith("vcd ")
    assert all(f"{name} (" in told.more for name in seen.controls["vcd"])
