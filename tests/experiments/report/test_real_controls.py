"""What the runner writes about controls is what the report reads."""

from decoding.arms.arm import default_controls, parse_arm
from experiments.api import run
from experiments.results.view_run import view_run
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
    view = view_run(run({**keys, "model": {"name": toy}, "grid": {"decoding": nodes}}, runs=tmp_path, quiet=True))
    assert set(view.controls) == {"vcd", "vcd, temperature=1", "cad, beams=2"}
    for label, node in zip(view.controls, nodes[1:], strict=True):
        assert set(view.controls[label]) - {"greedy"} == set(labels_of_controls(node)), label
    assert "sampling" in view.controls["vcd, temperature=1"]
    assert "sampling" not in view.controls["vcd"]


def test_default_controls_of_a_real_run_are_found_and_tested(mapping, toy, tmp_path):
    keys = {k: v for k, v in mapping(controls="default").items() if k != "model"}
    made = run({**keys, "model": {"name": toy}, "grid": {"decoding": ["greedy", "vcd"]}}, runs=tmp_path, quiet=True)
    view = view_run(made)
    assert set(view.controls) == {"vcd"}
    assert len(view.controls["vcd"]) == 9
    assert {"self_consistency", "more_demonstrations"} < set(view.controls["vcd"])
    assert set(view.controls["vcd"]) == set(labels_of_controls("vcd"))
    all_findings = findings(view.scores, view.metric, axes=view.axes, controls=view.controls)
    (decoding,) = [one for one in all_findings if one.topic == "Decoding"]
    assert decoding.claim.startswith("vcd ")
    assert all(f"{name} (" in decoding.more for name in view.controls["vcd"])
    assert [one.topic for one in view.findings if one.topic != "Vote"] == ["Answers"]  # random weights name no option
