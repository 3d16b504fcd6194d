import math
from collections.abc import Sequence

import pytest
import torch

from decoding.arms.arm import default_controls, parse_arm
from decoding.arms.requirements import unsupported_reason
from decoding.engine.engine import run_requests
from decoding.engine.option_scoring import FLOOR
from decoding.engine.requests import DecodingRequest
from decoding.strategies.dcd import DCD, INSTRUCTION, DCDPrompt
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy

V = [0.5, 0.3, 0.1, 0.1]
T = [0.1, 0.7, 0.1, 0.1]


def combined(strategy: DCD, image: list[float], text: list[float]) -> list[float]:
    scores: list[float] = strategy.combine(torch.tensor([[image], [text]]).log(), 0)[0].tolist()
    return scores


def test_the_more_confident_answer_is_favored() -> None:
    """c_v = .5, c_t = .7: .7 ln t - .5 ln v = -1.6118 + .3466, -.2497 + .6020, .2 ln .1."""
    assert combined(DCD(), V, T) == pytest.approx([-1.2652, 0.3523, -0.4605, -0.4605], abs=1e-4)
    # the same with the places changed: the image leads
    assert combined(DCD(), T, V) == pytest.approx([-1.2652, 0.3523, -0.4605, -0.4605], abs=1e-4)


def test_a_tie_goes_to_the_image() -> None:
    """Both have the confidence .5: .5 ln v - .5 ln t."""
    scores = combined(DCD(), [0.5, 0.3, 0.2], [0.3, 0.5, 0.2])
    assert scores[0] == pytest.approx(0.5 * math.log(0.5 / 0.3), abs=1e-5)
    assert scores[0] > scores[2] > scores[1]


def test_equal_answers_are_unchanged() -> None:
    """Both choose the first token; .6 z_t - .5 z_v would score (.0401, -.1972, .1918) and choose the third."""
    image, text = [0.5, 0.4, 0.1], [0.6, 0.39, 0.01]
    assert combined(DCD(), image, text) == pytest.approx([math.log(v) for v in image], abs=1e-5)


def test_each_row_is_decided_by_its_own_confidence() -> None:
    """As many rows as tokens, so that a confidence along the wrong axis has a valid shape."""
    image, text = torch.tensor([V, T, V, [0.25] * 4]).log(), torch.tensor([T, V, V, T]).log()
    together = DCD().combine(torch.stack([image, text]), 0)
    alone = [DCD().combine(torch.stack([image[i : i + 1], text[i : i + 1]]), 0) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_it_needs_generation_only_for_the_entity() -> None:
    assert DCD().traits.needs == {"generate", "logits"}
    assert DCD(entity="none").traits.needs == {"logits"}


def test_fixed_directions_favor_one_branch() -> None:
    assert combined(DCD(direction="text"), V, T) == pytest.approx(combined(DCD(), V, T), abs=1e-6)
    scores = combined(DCD(direction="image"), V, T)
    assert scores == pytest.approx([-v for v in combined(DCD(), V, T)], abs=1e-6)


def test_strength_is_the_difference_of_confidences() -> None:
    rows = torch.tensor([[V, V], [T, V]]).log()
    assert DCD().strength(rows, 0)[:, 0].tolist() == pytest.approx([0.2, 1.0], abs=1e-5)


def test_the_text_branch_names_the_recognized_entity() -> None:
    class Model:
        def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
            assert [p.text for p in prompts] == [f"[user] <image>{INSTRUCTION}"]
            return ["The Eiffel Tower.\n"]

    (note,) = DCD().prepare([prompt(1, shots=0)], Model())
    original, text = DCD().branches(prompt(1, shots=0), note)
    assert original == prompt(1, shots=0)
    assert text.text == "[user] This is an image of The Eiffel Tower. What is number 1?"
    assert DCD(entity="none").branches(prompt(1, shots=0), "")[1].text == "[user] What is number 1?"


def option_generation(
    model: Toy, node: dict[str, object], options: tuple[str, ...], normalize: str = "sum"
) -> dict[str, float]:
    (answer,) = run_requests(
        model, [DecodingRequest(prompt(3), parse_arm({**node, "normalize": normalize}), options, "options")]
    )
    assert isinstance(answer, Generation), answer
    assert answer.text == max(answer.option_scores, key=answer.option_scores.__getitem__)
    return dict(answer.option_scores)


@pytest.mark.parametrize("normalize", ["sum", "mean", "bytes"])
@pytest.mark.parametrize("options", [("w1", "w2", "w3", "w4"), ("w1", "w2 w5", "w3 w7 w1")])
def test_whole_options_combine_the_scores_of_both_branches(options: tuple[str, ...], normalize: str) -> None:
    model = Toy()
    node = {"name": "dcd", "entity": "none"}
    generation = option_generation(model, node, options, normalize)
    original, text = DCD(entity="none").branches(prompt(3))
    greedy = parse_arm({"name": "greedy", "normalize": normalize})
    branches = []
    for branch in (original, text):
        (plain,) = run_requests(model, [DecodingRequest(branch, greedy, options, "options")])
        assert isinstance(plain, Generation)
        branches.append([plain.option_scores[o] for o in options])
    by_hand = DCD().combine(torch.tensor(branches)[:, None], 0).log_softmax(-1)[0].tolist()
    assert list(generation.values()) == pytest.approx(by_hand, abs=1e-4)
    assert sum(map(math.exp, generation.values())) == pytest.approx(1, abs=1e-4)  # shares among the options


def test_token_granularity_combines_every_token() -> None:
    """As tokens, an option's probability is over the vocabulary: options do not share all of it."""
    model, options = Toy(), ("w1", "w2", "w3", "w4")
    generation = option_generation(model, {"name": "dcd", "entity": "none", "granularity": "tokens"}, options)
    assert sum(map(math.exp, generation.values())) < 0.99
    assert min(generation.values()) > FLOOR


class Conflicted:
    """Answers cat to the text alone and dog with the image; it takes no part in the last answer."""

    def __init__(self, visual: str = "Dog") -> None:
        self.visual, self.questions = visual, list[str]()

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        self.questions += [p.text for p in prompts]
        return ["A pet." if INSTRUCTION in p.text else self.visual if p.images else " cat" for p in prompts]


def test_a_hint_follows_the_question_only_if_the_answers_of_image_and_text_differ() -> None:
    model = Conflicted()
    (note,) = DCDPrompt().prepare([prompt(1, shots=0)], model)
    assert model.questions == [
        f"[user] <image>{INSTRUCTION}",
        "[user] <image>What is number 1?",
        "[user] This is an image of A pet. What is number 1?",
    ]
    original, rewritten = DCDPrompt().branches(prompt(1, shots=0), note)
    assert original == prompt(1, shots=0)
    assert rewritten.text == (
        "[user] <image>What is number 1? Be aware that your visual memory might differ from your text memory, "
        "causing a conflict in your knowledge. Your text memory is: cat and your visual memory is: Dog."
    )
    (reminder,) = DCDPrompt(hint="reminder").prepare([prompt(1, shots=0)], Conflicted())
    assert note == f"{reminder} Your text memory is: cat and your visual memory is: Dog."
    (agreed,) = DCDPrompt().prepare([prompt(1, shots=0)], Conflicted(visual="Cat."))
    assert DCDPrompt().branches(prompt(1, shots=0), agreed) == (prompt(1, shots=0),) * 2


def test_each_prompt_of_a_batch_gets_its_own_hint() -> None:
    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        return ["cat" if "number 2" in p.text or not p.images else "dog" for p in prompts]

    notes = DCDPrompt(entity="none").prepare([prompt(i, shots=0) for i in (1, 2, 3)], generate)
    assert [bool(note) for note in notes] == [True, False, True]


def test_a_model_with_logits_answers_the_rewritten_prompt() -> None:
    model, arm = Toy(stop_bias=-9.0), parse_arm("dcd_prompt")
    (answer,) = run_requests(model, [DecodingRequest(prompt(1), arm, max_new_tokens=4)])

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        requests = [DecodingRequest(p, parse_arm("greedy"), max_new_tokens=max_new_tokens) for p in prompts]
        return [one.text for one in run_requests(model, requests) if isinstance(one, Generation)]

    (note,) = DCDPrompt().prepare([prompt(1)], generate)
    rewritten = DCDPrompt().branches(prompt(1), note)[1]
    (expected,) = run_requests(model, [DecodingRequest(rewritten, parse_arm("greedy"), max_new_tokens=4)])
    assert isinstance(answer, Generation)
    assert isinstance(expected, Generation)
    assert note
    assert answer.tokens == expected.tokens


def test_its_default_controls_need_no_logits_either() -> None:
    assert [arm.label for arm in default_controls(parse_arm("dcd_prompt"))] == ["greedy"]
    assert unsupported_reason(parse_arm("dcd_prompt"), {"generate"}) is None
    assert unsupported_reason(parse_arm("dcd"), {"generate"}) is not None
