from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decoding.arms import arm as arm_module
from decoding.arms.arm import Arm, ControlTarget, default_controls, parse_arm
from decoding.arms.fitting import ParameterSource
from decoding.arms.greedy import GreedyDecoding
from decoding.controls.matched_sharpness import EntropyMatched
from decoding.formulas.sampling import Greedy, Sampling
from decoding.strategies.vcd import VCD
from icl.errors import ConfigError
from tests.decoding.test_controls import Weighted

MINE = '''
from dataclasses import dataclass
from decoding import Strategy
from icl import edits

@dataclass(frozen=True)
class Blind(Strategy):
    """Contrast with the prompt with blank images."""
    alpha: float = 1.0

    def branches(self, prompt, note=None):
        return prompt, prompt.edit(images=edits.Blank())

    def combine(self, logits, step):
        original, blank = logits
        return (1 + self.alpha) * original - self.alpha * blank
'''


def test_a_name_is_a_strategy_with_its_own_sampler() -> None:
    assert parse_arm("greedy") == Arm(GreedyDecoding(), Greedy(), "greedy")
    assert parse_arm({"name": "sampling", "temperature": 0.5}).sampler == Sampling(temperature=0.5)


def test_the_key_sampling_samples_from_the_combined_scores() -> None:
    arm = parse_arm({"name": "vcd", "alpha": 0.5, "sampling": {"temperature": 0.7, "top_p": 0.9}})
    assert arm == Arm(VCD(alpha=0.5), Sampling(temperature=0.7, top_p=0.9), arm.label)
    assert arm.label == "vcd(alpha=0.5), temperature=0.7, top_p=0.9"


@pytest.mark.parametrize(
    ("node", "label"),
    [
        ("vcd", "vcd"),
        ({"name": "vcd", "preset": "cd_rethink"}, "vcd(beta=0.2, noise_step=900)"),
        ({"name": "mask_only", "of": {"name": "vcd", "beta": 0.2}}, "mask_only(vcd(beta=0.2))"),
        ({"name": "vcd", "sampling": {}}, "vcd, temperature=1"),
        ({"name": "sampling", "top_k": 5}, "sampling(top_k=5)"),
        ({"name": "vcd", "label": "mine"}, "mine"),
    ],
)
def test_labels_list_parameters_that_differ_from_their_defaults(node: object, label: str) -> None:
    assert parse_arm(node).label == label


def test_the_digest_covers_what_affects_the_answers() -> None:
    plain = parse_arm("vcd")
    assert parse_arm({"name": "vcd", "alpha": 1.0, "label": "other"}).digest == plain.digest
    assert parse_arm({"name": "vcd", "sampling": {"temperature": 0}}).digest == plain.digest
    others = [
        {"name": "vcd", "alpha": 2},
        {"name": "vcd", "sampling": {}},
        "greedy",
        {"name": "mask_only", "of": "vcd"},
    ]
    assert len({parse_arm(node).digest for node in ["vcd", *others]}) == 5
    sampled = parse_arm({"name": "vcd", "sampling": {}})
    assert sampled.strategy_digest == plain.strategy_digest


def test_a_users_file_is_an_arm(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    arm = parse_arm({"name": f"{tmp_path}/mine.py:Blind", "alpha": 0.5})
    assert arm.label == "Blind(alpha=0.5)"
    assert [control.label for control in default_controls(arm)] == [
        "mask_only(Blind(alpha=0.5))",
        "temperature_matched(Blind(alpha=0.5))",
        "gaussian_proxy(Blind(alpha=0.5))",
        "sign_flip(Blind(alpha=0.5))",
        "shuffled_negative(Blind(alpha=0.5))",
        "unrelated_image(Blind(alpha=0.5))",
        "no_image(Blind(alpha=0.5))",
        "greedy",
        "self_consistency",
        "more_demonstrations",
    ]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("vdc", r"x.yaml: grid.decoding\[1\]: no strategy named 'vdc'. Did you mean 'vcd'\?"),
        ({"name": "vcd", "aplha": 1}, r"decoding\[1\].*no parameter 'aplha'. Did you mean 'alpha'\?"),
        ({"name": "vcd", "sampling": {"temprature": 1}}, r"decoding\[1\].sampling.*'temprature'. Did you mean 'temp"),
        ({"name": "vcd", "sampling": {"top_p": 2}}, r"decoding\[1\].sampling.*top_p"),
        ({"name": "vcd", "sampling": 0.7}, r"sampling must be a mapping"),
        ({"name": "sampling", "sampling": {"top_p": 0.5}}, r"drop the key 'sampling'"),
        ({"name": "vcd", "preset": "papr"}, r"no preset 'papr'. Did you mean 'paper'"),
        ({"name": "mask_only"}, r"decoding\[1\].*of"),
        ({"name": "mask_only", "of": "vdc"}, r"decoding\[1\].*Did you mean 'vcd'"),
        ({"name": "vcd", "label": 3}, r"a label must be a string"),
        (7, r"a strategy must be a name or a mapping"),
    ],
)
def test_mistakes_are_reported_with_their_place(node: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arm(node, "x.yaml: grid.decoding[1]")


FITTING = {
    "vcd": "mask_only temperature_matched gaussian_proxy sign_flip shuffled_negative unrelated_image no_image",
    "cad": "mask_only temperature_matched gaussian_proxy sign_flip shuffled_negative",
    "code": "mask_only temperature_matched gaussian_proxy sign_flip shuffled_negative",
    "ced": "mask_only entropy_matched gaussian_proxy sign_flip shuffled_negative",
    "dcd": "mask_only temperature_matched gaussian_proxy sign_flip shuffled_negative random_gate",
    "chasd": "mask_only temperature_matched gaussian_proxy sign_flip shuffled_negative random_gate unrelated_image "
    "no_image",
    "ritual": "mask_only temperature_matched gaussian_proxy plain_average unrelated_image no_image",
    "moicl": "mask_only temperature_matched gaussian_proxy plain_average",
    "xmore": "mask_only temperature_matched gaussian_proxy plain_average",
    "vdd_post_hoc": "mask_only entropy_matched gaussian_proxy sign_flip shuffled_negative",
}


def names(arms: Iterable[Arm]) -> list[str]:
    return [arm.strategy.component[1] for arm in arms]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "controls"), FITTING.items())
def test_default_controls_fit_the_strategy_and_have_the_arms_sampler(name: str, controls: str) -> None:
    greedy, sampled = parse_arm(name), parse_arm({"name": name, "sampling": {"temperature": 0.7}})
    own = [control for control in default_controls(greedy) if hasattr(control.strategy, "of")]
    assert names(own) == controls.split()
    assert {control.sampler for control in own} == {Greedy()}
    wrapping = [control for control in default_controls(sampled) if hasattr(control.strategy, "of")]
    assert set(names(wrapping)) == {*controls.split(), "entropy_matched"}  # sampling feels what greedy does not
    assert {control.sampler for control in wrapping} == {sampled.sampler}
    assert {control.strategy.of for control in (*own, *wrapping)} == {greedy.strategy}  # type: ignore[attr-defined]


def test_default_controls_include_references_and_controls_of_equal_cost() -> None:
    def shared(node: object, **how: Any) -> list[str]:
        return [c.label for c in default_controls(parse_arm(node), **how) if not hasattr(c.strategy, "of")]

    sampled = {"name": "vcd", "sampling": {"temperature": 0.7, "top_p": 0.9}}
    assert shared("vcd") == ["greedy", "self_consistency", "more_demonstrations"]
    assert shared(sampled) == [
        "greedy",
        "sampling(temperature=0.7, top_p=0.9)",
        "self_consistency, temperature=0.7, top_p=0.9",
        "more_demonstrations, temperature=0.7, top_p=0.9",
    ]
    assert "self_consistency(samples=3)" in shared("vdd")  # as many samples as it has branches
    assert shared(sampled, options=True, shots=0) == ["greedy"]


def test_references_and_controls_have_no_controls() -> None:
    for node in ("greedy", "sampling", "pba", "olm", "constant_bias", {"name": "mask_only", "of": "vcd"}):
        assert default_controls(parse_arm(node)) == ()


def test_entropy_matched_replaces_an_undefined_temperature_matched() -> None:
    matched = default_controls(Arm(Weighted(1.0, -1.0)))[1]
    assert isinstance(matched.strategy, EntropyMatched)


def test_an_arm_is_built_once_and_described_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def count(name: str) -> None:
        function = getattr(arm_module, name)
        monkeypatch.setattr(arm_module, name, lambda *args: (calls.append(name), function(*args))[1])

    count("parse")
    count("describe")
    arm = parse_arm({"name": "vcd", "alpha": 0.5})
    assert arm.config["strategy"]["alpha"] == 0.5
    assert arm.digest != arm.strategy_digest
    assert calls == ["parse", "describe"]


def test_the_files_of_parameters_do_not_distinguish_arms() -> None:
    arm = parse_arm("vcd")
    assert replace(arm, parameter_sources=(ParameterSource("a.json", {}),)) == arm
    assert replace(arm, strategy=VCD(alpha=0.5)) != arm


def test_a_target_is_that_of_generated_text_unless_stated_otherwise() -> None:
    target = ControlTarget(parse_arm({"name": "vcd", "sampling": {"temperature": 0.5}}))
    assert target.is_sampled
    assert target.shots is None
    assert not replace(target, options=True).is_sampled


def test_an_arm_computes_the_traits_of_a_wrapper_once() -> None:
    arm = parse_arm({"name": "mask_only", "of": "vcd"})
    assert arm.traits == arm.strategy.traits
    assert arm.traits is arm.traits
    assert arm.strategy.traits is not arm.strategy.traits
