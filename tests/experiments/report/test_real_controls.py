"""What the runner writes about controls is what the report reads."""

from decoding.arms.arm import default_controls, parse_arm
from experiments.api import run
from experiments.results.run_view import view_run
from experiments.stats.findings import findings


def labels_of_controls(node):
    """With 'greedy' an arm of the file, which is the reference and no control."""
    return [arm.label for arm in default_controls(parse_arm(node), shots=2) if arm.label != "greedy"]


def test_each_method_has_the_controls_of_its_own_sampler(mapping, toy, tmp_path):
    keys = {k: v for k, v in mapping(controls="default").items() if k != "model"}
    nodes = [
        "greedy",
        "vcd",
        {"name": "vcd", "sampling": {"temperature": 1.0}},
        {"name": "cad", "sampling": {"beams": 2}},
    ]
    seen = view_run(run({**keys, "model": {"name": toy}, "grid": {"decoding": nodes}}, runs=tmp_path, quiet=True))
    assert set(seen.controls) == {"vcd", "vcd, temperature=1", "cad, beams=2"}
    for label, node in zip(seen.controls, nodes[1:], strict=True):
        assert set(seen.controls[label]) - {"greedy"} == set(labels_of_controls(node)), label
    assert "sampling" in seen.controls["vcd, temperature=1"]
    assert "sampling" not in seen.controls["vcd"]


def test_default_controls_of_a_real_run_are_found_and_tested(mapping, toy, tmp_path):
    keys = {k: v for k, v in mapping(controls="default").items() if k != "model"}
    made = run({**keys, "model": {"name": toy}, "grid": {"decoding": ["greedy", "vcd"]}}, runs=tmp_path, quiet=True)
    seen = view_run(made)
    assert set(seen.controls) == {"vcd"}
    assert len(seen.controls["vcd"]) == 9
    assert {"self_consistency", "more_demonstrations"} < set(seen.controls["vcd"])
    assert set(seen.controls["vcd"]) == set(labels_of_controls("vcd"))
    found = findings(seen.scores, seen.metric, axes=seen.axes, controls=seen.controls)
    (told,) = [one for one in found if one.topic == "Decoding"]
    assert told.claim.startswith("vcd ")
    assert all(f"{name} (" in told.more for name in seen.controls["vcd"])
    assert [one.topic for one in seen.findings if one.topic != "Vote"] == ["Answers"]  # random weights name no option
