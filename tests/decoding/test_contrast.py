"""Contrasts in a config reproduce published methods."""

import math
from pathlib import Path

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import probe_prompt
from decoding.base import Strategy
from decoding.conformance import check_strategy, random_logits
from decoding.engine.decoding_step import combine_branches
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.strategies.icd import DISTURBANCE
from icl.errors import ConfigError
from icl.registry import entries
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy

SAME = [
    (
        {"name": "vcd", "alpha": 0.7, "beta": 0.2, "noise_step": 900, "images": "all"},
        {"branches": [{"change": "noise", "step": 900, "images": "all"}], "weights": [1.7, -0.7], "beta": 0.2},
    ),
    (
        {"name": "icd", "alpha": 0.5},
        {"branches": [{"change": "before_question", "text": DISTURBANCE}], "weights": [1.5, -0.5]},
    ),
    ({"name": "cad", "alpha": 1.0}, {"branches": ["no_demonstrations"], "weights": [2, -1], "mask": "none"}),
    (
        {"name": "cfg", "gamma": 2.5},
        {"branches": ["no_image"], "weights": [2.5, -1.5], "mask": "none", "space": "logprobs"},
    ),
    ({"name": "ced"}, {"branches": ["no_demonstrations"], "weights": [1, -1], "space": "logprobs"}),
    ({"name": "cd_k", "k": 3}, {"branches": ["no_image"], "weights": [1, -1], "mask": "kth_best", "k": 3}),
    ({"name": "ritual"}, {"branches": ["random_augmentation"], "weights": [1, 3]}),
    (
        {"name": "vdd", "noise_step": 700},
        {"branches": ["no_image", {"change": "noise", "step": 700}], "weights": [1.5, -0.25, -0.25]},
    ),
]


@pytest.mark.parametrize(("method", "written"), SAME, ids=[method["name"] for method, _ in SAME])
def test_contrast_reproduces_published_methods(method: dict[str, object], written: dict[str, object]) -> None:
    own, generic = parse_arm(method), parse_arm({"name": "contrast", **written})
    question = prompt(2, shots=3)
    branches = [b.digest for b in own.strategy.branches(question)]
    assert [b.digest for b in generic.strategy.branches(question)] == branches
    logits = random_logits(len(branches))
    torch.testing.assert_close(
        combine_branches(own.strategy, logits, 1)[0].softmax(-1),
        combine_branches(generic.strategy, logits, 1)[0].softmax(-1),
    )
    answers = run_requests(
        Toy(), [DecodingRequest(prompt(i, shots=3), arm, max_new_tokens=6) for arm in (own, generic) for i in range(4)]
    )
    assert all(isinstance(answer, Generation) for answer in answers)
    assert [a.tokens for a in answers[:4]] == [a.tokens for a in answers[4:]]  # type: ignore[union-attr]


def generic(**written: object) -> Strategy:
    return parse_arm({"name": "contrast", **written}).strategy


def test_probabilities_are_mixed_by_hand() -> None:
    """.25 (.6, .4) + .75 (.2, .8) = (.3, .7); a negative mixture has almost no probability."""
    logits = torch.tensor([[[0.6, 0.4]], [[0.2, 0.8]]]).log()
    mixed = generic(branches=["blank"], weights=[0.25, 0.75], space="probabilities", mask="none")
    assert mixed.combine(logits, 0)[0].exp().tolist() == pytest.approx([0.3, 0.7], abs=1e-6)
    below = generic(branches=["blank"], weights=[1, -1], space="probabilities", mask="none")
    scores = below.combine(logits, 0)[0]
    assert float(scores[0]) == pytest.approx(math.log(0.4), abs=1e-5)
    assert -90 < float(scores[1]) < -80


CHANGES = [
    "none", "noise", "blank", "mean_color", "shuffled_patches", {"change": "crop", "box": [0, 0, 0.5, 1]}, "region",
    "random_augmentation", "random_colors", "no_image",
    "no_demonstrations", "query_text_alone", {"change": "instruction", "text": "Guess."},
    {"change": "before_question", "text": "Well. "}, {"change": "after_question", "text": " Say yes."}, "wrong_answers",
]  # fmt: skip


def test_every_change_makes_a_different_prompt_and_conforms() -> None:
    strategy = generic(branches=CHANGES, weights=[1.0] + [0.0] * len(CHANGES), mask="typical")
    digests = [b.digest for b in strategy.branches(probe_prompt(3))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == len(digests) - 1
    check_strategy(strategy)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"branches": ["no_images"]}, "Did you mean 'no_image'"),
        ({"branches": [{"change": "noise", "stp": 3}]}, "no parameter 'stp'. Did you mean 'step'"),
        ({"branches": [{"change": "noise", "step": 3000}]}, "step"),
        ({"branches": [{"change": "instruction"}]}, "needs the parameter text"),
        ({"branches": [{"change": "no_image", "images": "all"}]}, "has no parameter 'images'. It has none"),
        ({"branches": [{"change": "blank", "step": 900}]}, "'blank' has no parameter 'step'"),
        ({"branches": [{"change": "region", "box": [0.5, 0, 0.2, 1]}]}, "left < right"),
        ({"branches": ["crop"]}, "needs a box smaller than the image"),
        ({"branches": [3]}, "a mapping with the key 'change'"),
        ({"branches": "no_image"}, "a list"),
        ({"branches": ["blank", "noise"]}, "2 numbers for the prompt and 2 branches"),
        ({"mask": "some"}, "mask"),
        ({"mask": "none", "beta": 0.5}, "the mask 'none' has no parameter 'beta'. It has none"),
        ({"mask": "none", "k": 7}, "the mask 'none' has no parameter 'k'"),
        ({"k": 7}, "the mask 'plausible' has no parameter 'k'. It has beta"),
        ({"mask": "typical", "beta": 0.5}, "the mask 'typical' has no parameter 'beta'. It has width"),
        ({"mask": "kth_best", "width": 2}, "the mask 'kth_best' has no parameter 'width'. It has beta and k"),
    ],
)
def test_mistakes_are_reported(written: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arm({"name": "contrast", **written}, "x.yaml: decoding")


STRIPES = """
from dataclasses import dataclass
from icl.edits import Edit

@dataclass(frozen=True)
class Stripes(Edit):
    width: int = 2  # pixels

    def apply_to_image(self, image):
        striped = image.copy()
        for left in range(0, image.width, 2 * self.width):
            striped.paste((0, 0, 0), (left, 0, left + self.width, image.height))
        return striped
"""


def test_a_users_edit_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRIPES)
    path = f"{tmp_path}/mine.py:Stripes"
    plain = generic(branches=[path])
    wider = generic(branches=[{"change": {"name": path, "width": 3}, "images": "all"}])
    check_strategy(wider)
    prompt = probe_prompt(2)
    images = [[image.open() for image in strategy.branches(prompt)[1].images] for strategy in (plain, wider)]
    before = [image.open() for image in prompt.images]
    assert [pil_image != was for pil_image, was in zip(images[0], before, strict=True)] == [False, False, True]
    assert [pil_image.getpixel((2, 0)) == (0, 0, 0) for pil_image in images[1]] == [True] * 3
    assert parse_arm({"name": "contrast", "branches": [path]}).digest != parse_arm("contrast").digest
    with pytest.raises(ConfigError, match=r"no parameter 'widht'. Did you mean 'width'"):
        generic(branches=[{"change": {"name": path, "widht": 3}}])
    with pytest.raises(ConfigError, match=r"'Stripes' has no parameter 'step'. It has images"):
        generic(branches=[{"change": path, "step": 3}])
    with pytest.raises(ConfigError, match="'vcd' is a strategy, not an edit"):
        generic(branches=["decoding.strategies.vcd:VCD"])


def test_every_registered_edit_is_a_change() -> None:
    for name in entries("edit"):
        changed = generic(branches=[{"change": {"name": name}}])
        assert len({branch.digest for branch in changed.branches(probe_prompt())}) == 2
    labels = [parse_arm({"name": "contrast", "branches": [change]}).label for change in ("flip", "rotate")]
    assert labels == ["contrast(branches=[{change=flip}])", "contrast(branches=[{change=rotate}])"]
    node = {"name": "blur", "radius": 4}
    arm = parse_arm({"name": "contrast", "branches": [{"change": node}]})
    assert arm.config["strategy"]["branches"][0]["change"] == node
    again = arm.config["strategy"]
    assert parse_arm(again).digest == arm.digest


def test_its_label_is_its_config() -> None:
    arm = parse_arm(
        {"name": "contrast", "branches": ["no_image", {"change": "noise", "step": 9}], "weights": [2, -0.5, -0.5]}
    )
    assert arm.label == "contrast(branches=[{change=no_image}, {change=noise, step=9}], weights=[2, -0.5, -0.5])"
