"""Where a chat template writes an answer: options are scored, and answers are trained, there and nowhere else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_templates import published_template
from tiny_models import image, turn

from decoding.arms.arm import Arm, parse_arm
from decoding.arms.greedy import GreedyDecoding
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from decoding.strategies.vcd import VCD
from experiments.tuning.objectives import answer_logits, encode_answered
from icl.errors import ModelError
from icl.models.answer_likelihood import probabilities
from icl.models.hf.gradients import answer_loss, encode_answers
from icl.models.hf.model import HF
from icl.types import Generation, Part, Prompt, Turn

FolderOf = Callable[[str], Path]

TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>BEFORE{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}</turn>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>PROMPT{% endif %}"
)
LAST = "{% if m['role'] == 'assistant' and loop.last %}TEXT{% endif %}"
EVERY = "{% if m['role'] == 'assistant' %}TEXT{% endif %}"


def template(before: str, prompt: str, where: str = EVERY) -> str:
    """Turns, in which answers begin with a text and prompts end with one. `where`: which answers."""
    return TURNS.replace("BEFORE", where.replace("TEXT", f"{{{{ {before!r} }}}}")).replace(
        "PROMPT", f"{{{{ {prompt!r} }}}}"
    )


TEMPLATES = {
    "opened block": (template("<think>\n\n</think>\n\n", "<think>\n", LAST), "\n</think>\n\n"),
    "opened block, empty ones before": (template("<think></think>", "<think>"), "</think>"),
    "block of answers alone": (template("\n<think></think>\n", "\n"), "<think></think>\n"),
    "unknown markers": (template("<|open|>think<|close|>", "<|open|>think", LAST), "<|close|>"),
    "channel and a blank": (template(" to=user: ", ""), " to=user:"),
    "closed block that answers lack": (template("", "<think></think>", LAST), ""),
    "blank": (template(" ", ""), ""),
    "nothing": (template("", ""), ""),
}
"""Name -> a chat template of a published shape, and what it writes between prompt and answer."""

QWEN, KIMI, GLM = "<|image_pad|>", "<|media_pad|>", "<|image|>"
PUBLISHED = {
    "qwen3_5": (QWEN, "\n</think>\n\n"),
    "qwen3_6": (QWEN, "\n</think>\n\n"),
    "qwen3_8": (QWEN, "\n</think>\n\n"),
    "qwen3_vl_thinking": (QWEN, "\n</think>\n\n"),
    "kimi_k2_5": (KIMI, "</think>"),
    "kimi_k3": ("<|kimi_image_placeholder|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    "glm4_5v": (GLM, "<think></think>\n"),
    "minimax_m3": ("]<]image[>[", "</mm:think>"),
    "muse_glimmer": ("<|patch|>", " to=user<|message|>"),
}
"""Published template -> its placeholder of an image, and what it writes between prompt and answer."""

PRINTED = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'user' and m['content'] is not string %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A template that reads lists of items in user turns alone."""


@pytest.fixture
def checkpoint(folder_of: FolderOf, tmp_path: Path) -> Callable[[str], HF]:
    """A random checkpoint with a chat template."""

    def made(text: str) -> HF:
        folder = shutil.copytree(folder_of("llava"), tmp_path / "checkpoint")
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        return HF(path=str(folder))

    return made


PROMPT = Prompt(
    (
        turn("user", image(1), "Which color?", name="demo[0]"),
        turn("assistant", "red"),
        turn("user", image(2), "Which color?", name="query"),
    )
)
NAMED = Prompt((Turn("user", (Part(image(1), "query.image[0]"), Part("Which color?", "query.question"))),))
OPTIONS = ("red", "bluish")


def answered_logprobs(hf: HF, option: str) -> list[float]:
    """Log-probabilities of an option's tokens in one forward pass of `transformers` over the answered conversation."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(hf.path)
    model = AutoModelForImageTextToText.from_pretrained(hf.path).eval()
    conversation: list[Any] = [
        {
            "role": one.role,
            "content": [{"type": "image"} if p.image else {"type": "text", "text": p.text} for p in one.parts],
        }
        for one in (*PROMPT.turns, turn("assistant", option))
    ]
    text = processor.apply_chat_template(conversation)
    end = text.rindex(option) + len(option)
    begin = end - len(option) - (text[end - len(option) - 1] == " ")
    images = [one.open() for one in PROMPT.images]
    inputs = processor(text=[text[:end]], images=[images], return_tensors="pt", add_special_tokens=False)
    size = len(processor.tokenizer(text[begin:end], add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        logprobs = model(**inputs).logits[0].float().log_softmax(-1)
    ids = inputs["input_ids"][0]
    return [float(logprobs[place - 1, ids[place]]) for place in range(len(ids) - size, len(ids))]


def scores(hf: HF, arm: Arm) -> dict[str, float]:
    (result,) = run_requests(hf, [DecodingRequest(PROMPT, arm, OPTIONS, "options")], trace=False)
    assert isinstance(result, Generation), result
    return dict(result.option_scores)


def check_scores(hf: HF, start: str) -> None:
    assert hf.before_answer(PROMPT).answer_start == start
    expected = {option: answered_logprobs(hf, option) for option in OPTIONS}
    sums, means = scores(hf, Arm(GreedyDecoding())), scores(hf, Arm(GreedyDecoding(), normalize="mean"))
    for option, own in expected.items():
        assert sums[option] == pytest.approx(sum(own), abs=1e-3)
        assert means[option] == pytest.approx(sum(own) / len(own), abs=1e-3)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not name.startswith("closed")])
def test_options_are_scored_where_the_template_writes_an_answer(name: str, checkpoint: Callable[[str], HF]) -> None:
    text, start = TEMPLATES[name]
    check_scores(checkpoint(text), start)


@pytest.mark.parametrize("name", PUBLISHED)
def test_options_are_scored_where_a_published_template_writes_an_answer(
    name: str, checkpoint: Callable[[str], HF]
) -> None:
    slot, start = PUBLISHED[name]
    check_scores(checkpoint(published_template(name).replace(slot, "<image>")), start)


@pytest.mark.parametrize("where", [LAST, EVERY])
@pytest.mark.parametrize("before", ["", "<think>\n"])
def test_a_block_that_answers_do_not_close_is_closed_as_by_a_thinking_budget(
    where: str, before: str, checkpoint: Callable[[str], HF]
) -> None:
    hf = checkpoint(template(before, "<think>\n", where))
    prompt = hf.before_answer(PROMPT)
    assert prompt.answer_start == "\n</think>\n\n"
    assert hf.render(prompt).endswith("<assistant><think>\n\n</think>\n\n")
    assert hf.before_answer(prompt) == prompt
    options = hf.option_ids(prompt, OPTIONS)
    assert options == [list(hf.renderer.ids(option)) for option in OPTIONS]
    assert set(scores(hf, Arm(GreedyDecoding()))) == {*OPTIONS}


def test_a_closed_block_that_answers_lack_stays_in_the_prompt(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["closed block that answers lack"][0])
    assert hf.before_answer(PROMPT) == PROMPT
    assert hf.render(PROMPT).endswith("<think></think>")


def test_every_branch_is_read_up_to_the_answer_and_an_equal_prompt_is_generated_from_before_it(
    checkpoint: Callable[[str], HF],
) -> None:
    hf, counters = checkpoint(TEMPLATES["opened block"][0]), Counters()
    arm, greedy = Arm(VCD()), Arm(GreedyDecoding())
    requests = [
        DecodingRequest(PROMPT, arm, OPTIONS, "options"),
        DecodingRequest(PROMPT, greedy, max_new_tokens=2),
        DecodingRequest(hf.before_answer(PROMPT), greedy, max_new_tokens=2),
    ]
    options, opened, closed = run_requests(hf, requests, counters, trace=False)
    assert isinstance(options, Generation)
    assert isinstance(opened, Generation)
    assert isinstance(closed, Generation)
    more = len(hf.renderer.ids("\n</think>\n\n"))
    assert closed.usage.prompt_tokens == opened.usage.prompt_tokens + more
    assert options.usage.prompt_tokens == 2 * closed.usage.prompt_tokens
    assert counters.prompts_prefilled == 3


def test_a_template_without_text_before_answers_shares_prompts_with_generated_answers(
    checkpoint: Callable[[str], HF],
) -> None:
    hf, counters, greedy = checkpoint(TEMPLATES["blank"][0]), Counters(), Arm(GreedyDecoding())
    requests = [DecodingRequest(PROMPT, greedy, OPTIONS, "options"), DecodingRequest(PROMPT, greedy, max_new_tokens=2)]
    run_requests(hf, requests, counters, trace=False)
    assert counters.prompts_prefilled == 1


def test_first_tokens_of_options_are_those_of_their_words(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["opened block"][0])
    (result,) = run_requests(hf, [DecodingRequest(NAMED, parse_arm("olm"), OPTIONS, "options")], trace=False)
    assert isinstance(result, Generation), result
    assert len(set(result.option_scores.values())) == 2


def test_trained_answers_follow_the_closed_block(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["opened block"][0])
    hf.load()
    expected = answered_logprobs(hf, "red")
    loss = answer_loss(hf, encode_answers(hf, [PROMPT], ["red"]), [])
    assert float(loss) == pytest.approx(-sum(expected) / len(expected), abs=1e-3)
    with torch.inference_mode():
        logits, targets = answer_logits(hf.engine.runner, encode_answered(hf, [PROMPT], ["red"]))
    own = logits[0].float().log_softmax(-1).gather(-1, targets[0][:, None])[:-1, 0]
    assert own.tolist() == pytest.approx(expected, abs=1e-3)


def test_probabilities_of_answers_are_those_after_the_closed_block(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["opened block"][0])
    means = [sum(own) / len(own) for own in (answered_logprobs(hf, option) for option in OPTIONS)]
    assert probabilities(hf, [PROMPT], OPTIONS)[0].tolist() == pytest.approx(
        torch.tensor(means).softmax(-1).tolist(), abs=1e-3
    )


def test_options_after_a_prompt_that_ends_in_an_opened_block_are_an_error(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["opened block"][0])
    with pytest.raises(ModelError, match=r"writes '\\n</think>\\n\\n' between this prompt and an answer"):
        hf.option_ids(PROMPT, OPTIONS)


def test_an_option_that_occurs_in_the_text_before_answers_is_scored_after_it(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["opened block"][0])
    assert hf.option_ids(hf.before_answer(PROMPT), ["think"]) == [list(hf.renderer.ids("think"))]


def test_a_turn_that_the_template_would_print_as_a_list_is_a_string(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(PRINTED)
    quoted = Prompt((turn("system", 'It\'s "short".'), *PROMPT.turns))
    assert hf.render(quoted) == (
        '<system>It\'s "short".<user><image>Which color?<assistant>red<user><image>Which color?<assistant>'
    )


def test_a_turn_with_an_image_that_the_template_prints_as_a_list_is_an_error(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(PRINTED + "<image>")
    with_image = Prompt((turn("system", image(1), "Look."), turn("user", "Which color?")))
    with pytest.raises(ModelError, match="prints the content of the system turn as Python or JSON"):
        hf.render(with_image)


def test_demonstrations_of_a_published_template_that_prints_lists_are_strings(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(published_template("glm4_1v_thinking").replace(GLM, "<image>"))
    text = hf.render(Prompt((turn("system", "Be short."), *PROMPT.turns)))
    assert "<|system|>\nBe short." in text
    assert "<|assistant|>\nred<|user|>" in text
    assert "[{" not in text


@pytest.mark.parametrize(
    ("name", "reasoning", "start"),
    [
        ("opened block", "It is red.", "It is red.\n</think>\n\n"),
        ("opened block, empty ones before", "It is red.", "It is red.</think>"),
        ("block of answers alone", "It is red.", "<think>It is red.\n</think>\n\n"),
        ("nothing", "It is red.", "<think>It is red.\n</think>\n\n"),
    ],
)
def test_options_may_follow_reasoning_in_the_block_of_the_template(
    name: str, reasoning: str, start: str, checkpoint: Callable[[str], HF]
) -> None:
    hf = checkpoint(TEMPLATES[name][0])
    prompt = hf.before_answer(PROMPT, reasoning)
    assert prompt.answer_start.strip("\n") == start.strip("\n")
    assert hf.option_ids(prompt, OPTIONS) == hf.option_ids(hf.before_answer(PROMPT), OPTIONS)


def continued_logprobs(hf: HF, text: str, option: str) -> float:
    """Log-probability of an option after a rendered prompt and more text, in one forward pass of `transformers`."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(hf.path)
    model = AutoModelForImageTextToText.from_pretrained(hf.path).eval()
    images = [one.open() for one in PROMPT.images]
    inputs = processor(text=[text + option], images=[images], return_tensors="pt", add_special_tokens=False)
    size = len(processor.tokenizer(option, add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        logprobs = model(**inputs).logits[0].float().log_softmax(-1)
    ids = inputs["input_ids"][0]
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(len(ids) - size, len(ids)))


def test_the_model_reasons_up_to_its_budget_and_then_options_are_scored(checkpoint: Callable[[str], HF]) -> None:
    hf, arm, counters = checkpoint(TEMPLATES["opened block"][0]), Arm(GreedyDecoding()), Counters()
    reasoned = DecodingRequest(PROMPT, arm, OPTIONS, "options", max_thinking_tokens=6)
    plain = DecodingRequest(PROMPT, arm, OPTIONS, "options")
    chosen, quick = run_requests(hf, [reasoned, plain], counters, trace=False)
    (thought,) = run_requests(hf, [DecodingRequest(PROMPT, arm, max_new_tokens=1, max_thinking_tokens=6)], trace=False)
    assert isinstance(chosen, Generation), chosen
    assert isinstance(quick, Generation), quick
    assert isinstance(thought, Generation), thought
    reasoning = thought.text.partition("</think>")[0].rstrip()
    text = f"{hf.render(PROMPT)}{reasoning}\n</think>\n\n"
    for option in OPTIONS:
        assert chosen.option_scores[option] == pytest.approx(continued_logprobs(hf, text, option), abs=1e-3)
    assert chosen.option_scores != quick.option_scores
    assert (chosen.thinking, chosen.usage.thinking_tokens, quick.thinking) == ("cut", 6, "")
    assert chosen.text == max(OPTIONS, key=lambda option: chosen.option_scores[option])
    assert chosen.reasoning == reasoning
    assert counters.prompts_prepared == 1


def test_all_branches_of_an_arm_read_its_own_reasoning(checkpoint: Callable[[str], HF]) -> None:
    hf, arm = checkpoint(TEMPLATES["opened block"][0]), Arm(VCD())
    requests = [
        DecodingRequest(PROMPT, arm, OPTIONS, "options", max_thinking_tokens=4),
        DecodingRequest(PROMPT, arm, max_new_tokens=1, max_thinking_tokens=4),
    ]
    chosen, thought = run_requests(hf, requests, trace=False)
    assert isinstance(chosen, Generation), chosen
    assert isinstance(thought, Generation), thought
    reasoning = thought.text.partition("</think>")[0].rstrip()
    (same,) = run_requests(hf, [DecodingRequest(PROMPT, arm, OPTIONS, "options", reasoning=reasoning)], trace=False)
    assert isinstance(same, Generation), same
    assert same.option_scores == pytest.approx(chosen.option_scores, rel=1e-6)
    branches = arm.strategy.branches(PROMPT, None)
    tokens = sum(hf.count_tokens(hf.before_answer(branch, reasoning)) for branch in branches)
    assert chosen.usage.prompt_tokens == tokens


def test_an_arm_that_only_scores_options_reasons_greedily(checkpoint: Callable[[str], HF]) -> None:
    hf = checkpoint(TEMPLATES["opened block"][0])
    requests = [
        DecodingRequest(NAMED, parse_arm(name), OPTIONS, "options", max_thinking_tokens=4) for name in ("olm", "greedy")
    ]
    olm, greedy = run_requests(hf, requests, trace=False)
    assert isinstance(olm, Generation), olm
    assert isinstance(greedy, Generation), greedy
    assert olm.reasoning == greedy.reasoning != ""
