"""The engines on real architectures with random weights, and on the checkpoint that comes with the toolkit."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, takewhile
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import tiny_models
import torch
from torch import Tensor

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.base import InitialStepState, Strategy
from decoding.controls.matched_sharpness import EntropyMatched
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.formulas.sampling import Greedy, Sampling
from decoding.strategies.vcd import VCD
from icl.models.hf.model import HF
from icl.types import Generation, Prompt
from tests.decoding.prompts import vcd_one_at_a_time
from tests.decoding.test_strategies import ALL, made

NEW, STEPS = 6, 32 if tiny_models.IS_WHOLE else 20
ARCHITECTURES = ("llava", "qwen2_5_vl", "idefics3", "gemma3", "qwen3_5")
SHIPPED = Path(__file__).parents[2] / "icl/models/tiny/checkpoints/vlm"


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            folder = SHIPPED if name == "shipped" else tiny_models.save(name, tmp_path_factory.mktemp(name))
            made[name] = HF(path=str(folder), dtype="float32", device="cpu")
            made[name].load()
        return made[name]

    return get


needs_shipped = pytest.mark.skipif(not (SHIPPED / "config.json").exists(), reason="the shipped checkpoint is not there")
shipped = pytest.param("shipped", marks=needs_shipped)
every = pytest.mark.parametrize("name", [*ARCHITECTURES, shipped])
each_kind = pytest.mark.parametrize("name", [*(name for name in ARCHITECTURES if name in tiny_models.SAMPLE), shipped])


def questions(name: str) -> list[Prompt]:
    """Prompts of different lengths and numbers of images, each about a different image."""
    colors = [[1, 2, 3], [4], [5, 1, 6, 2], [2, 7]]
    return [
        tiny_models.prompt(images, "color" + "?" * i, query=f"q{i}", size=(56, 84)) for i, images in enumerate(colors)
    ]


def texts_of(model: HF, answers: list[Generation | Failure]) -> list[tuple[int, ...]]:
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [answer.tokens for answer in answers if isinstance(answer, Generation)]


def generated(model: HF, prompts: list[Prompt], new: int, **how: Any) -> list[tuple[int, ...]]:
    """`generate` of transformers on the processor's own inputs, one left-padded batch; cut at the end token."""
    inputs = model.checkpoint.processor.apply_chat_template(
        tiny_models.conversations(prompts),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    with torch.inference_mode():
        whole = model.engine.runner.model.generate(**inputs, do_sample=False, max_new_tokens=new, **how)
    answers = []
    for row in whole[:, inputs["input_ids"].shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in model.stop_tokens), len(row))
        answers.append(tuple(row[:end]))
    return answers


def arms() -> list[Arm]:
    vcd = parse_arm({"name": "vcd", "noise_step": 999})
    mild = parse_arm({"name": "vcd", "alpha": 3.0, "beta": 0.01, "sampling": {"temperature": 1.5}})
    return [parse_arm("greedy"), parse_arm("sampling"), vcd, mild, *default_controls(vcd)[:2]]


@every
def test_the_greedy_arm_is_transformers_generate(name: str, model_of: Callable[[str], HF]) -> None:
    model = model_of(name)
    answers = run_requests(
        model, [DecodingRequest(p, parse_arm("greedy"), max_new_tokens=NEW) for p in questions(name)]
    )
    assert texts_of(model, answers) == generated(model, questions(name), NEW)


@each_kind
@pytest.mark.parametrize("penalty", [1.0, 0.0])
def test_beams_are_those_of_transformers_generate(name: str, penalty: float, model_of: Callable[[str], HF]) -> None:
    model, arm = model_of(name), parse_arm({"name": "beam", "beams": 3, "length_penalty": penalty})
    answers = run_requests(model, [DecodingRequest(p, arm, max_new_tokens=NEW) for p in questions(name)])
    own = [generated(model, [p], NEW, num_beams=3, length_penalty=penalty)[0] for p in questions(name)]
    assert texts_of(model, answers) == own


@each_kind
def test_vcd_equals_two_plain_forward_passes_per_step(name: str, model_of: Callable[[str], HF]) -> None:
    """The plain loop prefills both prompts before each token, without a batch."""
    model, method = model_of(name), VCD(alpha=2.0, noise_step=999)
    answers = run_requests(model, [DecodingRequest(p, Arm(method), max_new_tokens=NEW) for p in questions(name)])
    with torch.inference_mode():
        slow = [vcd_one_at_a_time(model, method, p, NEW) for p in questions(name)]
    assert texts_of(model, answers) == slow


@each_kind
def test_six_arms_together_answer_as_each_alone(name: str, model_of: Callable[[str], HF]) -> None:
    model, counters = model_of(name), Counters()
    requests = [DecodingRequest(p, arm, max_new_tokens=NEW) for p in questions(name) for arm in arms()]
    together = texts_of(model, run_requests(model, requests, counters))
    alone = {
        arm.label: texts_of(
            model, run_requests(model, [DecodingRequest(p, arm, max_new_tokens=NEW) for p in questions(name)])
        )
        for arm in arms()
    }
    assert together == [alone[arm.label][i] for i in range(len(questions(name))) for arm in arms()]
    assert counters.prompts_prefilled == 3 * len(questions(name))  # the prompts, noised at 999 and at 500
    one_by_one = [texts_of(model, run_requests(model, [request]))[0] for request in requests[:6]]
    assert one_by_one == together[:6]


@each_kind
def test_option_scores_are_log_probabilities_of_the_whole_text(name: str, model_of: Callable[[str], HF]) -> None:
    model, options = model_of(name), ("red", "a square", "no")
    requests = [
        DecodingRequest(p, parse_arm(n), options, "options") for p in questions(name) for n in ("greedy", "vcd")
    ]
    answers = run_requests(model, requests)
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Generation)
        if request.arm.label != "greedy":
            continue
        for option, ids in zip(options, model.option_ids(request.prompt, options), strict=True):
            total = 0.0
            for i, token in enumerate(ids):
                session = model.open([request.prompt])
                if i:
                    session.extend([ids[:i]])
                total += float(session.logits[0].log_softmax(-1)[token])
            assert answer.option_scores[option] == pytest.approx(total, abs=1e-4)


def whole(model: HF, branch: Prompt, tokens: Sequence[int], exits: bool) -> Tensor:
    """[tokens + 1, 1 + early layers, V]: prompt and answer in one forward pass, without a batch."""
    runner, (read,) = model.engine.runner, model.engine.prompt_encoder.read([branch])
    assert read.plain is None
    added = torch.tensor(tokens, dtype=read.ids.dtype)
    longer = replace(
        read,
        ids=torch.cat([read.ids, added]),
        positions=torch.cat([read.positions, read.positions[..., -1:] + 1 + torch.arange(len(tokens))], -1),
        token_types=None if read.token_types is None else torch.cat([read.token_types, torch.zeros_like(added)]),
        key=(*read.key, *tokens),
    )
    logits = runner.forward(**runner.padded([longer]), keep=len(tokens) + 1, early_exits=exits)[0].float()
    return logits if exits else logits[:, None]


class ImageTokenError(Exception):
    """A random model generated an image token, after which a forward pass over the whole text would need an image."""


def descriptions(model: HF, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    """Greedy answers for `prepare`, each token from a forward pass over the whole text before it."""
    answers = []
    for prompt in prompts:
        tokens: list[int] = []
        while len(tokens) < max_new_tokens:
            token = int(whole(model, prompt, tokens, False)[-1, 0].argmax())
            if token in model.stop_tokens:
                break
            if token in model.engine.prompt_encoder.slots:
                raise ImageTokenError
            tokens.append(token)
        answers.append(model.text(tokens))
    return answers


@dataclass(frozen=True)
class Describes:
    """What the engine gives to `Strategy.prepare`."""

    model: HF

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        return descriptions(self.model, prompts, max_new_tokens)


def wrong(model: HF, arm: Arm, question: Prompt, answer: Generation) -> str:
    """The first step at which an answer differs from what the strategy's formula chooses, or '' if there is none.

    The scores of each step come from forward passes over the whole text of every branch. Ties within CLOSE may be
    decided either way. A temperature that matches an entropy is less exact. A random model may generate an image token.
    A forward pass over the whole text would need an image there, so the check ends before it. If the model does so when
    a strategy asks it about the prompt, there is no check of this question.
    """
    close = 10 * CLOSE if isinstance(arm.strategy, EntropyMatched) else CLOSE
    strategy, slots = arm.strategy, model.engine.prompt_encoder.slots
    tokens = list(takewhile(lambda token: token not in slots, answer.tokens))
    steps = answer.usage.new_tokens if tokens == list(answer.tokens) else len(tokens)
    try:
        (note,) = strategy.prepare([question], Describes(model))
    except ImageTokenError:
        return ""
    branches = strategy.branches(question, note)
    first, *others = [
        whole(model, b, tokens, strategy.traits.reads_early_exits and i == 0) for i, b in enumerate(branches)
    ]
    logits = torch.cat([first[:, :1], *others, first[:, 1:]], 1)  # [steps, n, V]
    state = InitialStepState(question.key, note=note)
    for step in range(steps):
        own = logits[step][:, None]
        mask, scores = strategy.mask(own[0]), strategy.combine_stateful(own, step, [state])
        scores = (scores if mask is None else scores.masked_fill(~mask, -torch.inf))[0]
        ids = sorted(model.stop_tokens) if step == len(answer.tokens) else [answer.tokens[step]]
        if not any(chooses(arm, scores, token, question, step) for token in ids):
            return f"{arm.label}, {question.key.query}, step {step}: {ids} has {scores[ids].tolist()}"
        gap = min(abs(float(scores.log_softmax(-1)[token]) - answer.trace["logprob"][step]) for token in ids)
        if gap > close:
            return f"{arm.label}, {question.key.query}, step {step}: log-probabilities differ by {gap}"
    return ""


def chooses(arm: Arm, scores: Tensor, token: int, question: Prompt, step: int) -> bool:
    """Whether these scores choose the token: it is the best, or the query's random number falls into its interval."""
    if isinstance(arm.sampler, Greedy):
        return bool(scores[token] >= scores.max() - CLOSE)
    assert isinstance(arm.sampler, Sampling)
    heaped = arm.sampler.distribution(scores[None])[0].double().cumsum(-1)
    number = question.key.number(f"sampling/{step}", 53) / 2**53
    begins = float(heaped[token - 1]) if token else 0.0
    return begins - CLOSE <= number <= float(heaped[token]) + CLOSE


SHORT: Mapping[str, Mapping[str, int]] = {
    "code": {"max_new_tokens": 4}, "dcd": {"max_new_tokens": 4}, "confident_layer": {"depth": 2}
}  # fmt: skip
"""Preparations, and layers below the last of the three that these models have."""


def family() -> list[Strategy]:
    """Every strategy that generates text, with short preparations."""
    return [
        replace(one, **SHORT.get(name, {}))  # type: ignore[type-var]
        for name in ALL
        if not (one := made(name)).traits.requires_options
        and name not in ("random_gate", "other_answers", "self_consistency", "best_of_n", "opera")  # a search of beams
    ]


def sixteen() -> list[Prompt]:
    """Prompts of different lengths with one to four images, each with the next one as its paired prompt."""
    colors = [[10 + i + j for j in range(1 + i % 4)] for i in range(16)]
    prompts = [
        tiny_models.prompt(images, "color" + "?" * (7 * i % 11), query=f"q{i}", size=(56, 56))
        for i, images in enumerate(colors)
    ]
    arms = [
        p.map(lambda part: replace(part, name="query.question") if part.text and part.name[:5] == "query" else part)
        for p in prompts
    ]
    return [replace(p, paired_prompt=arms[(i + 1) % 16]) for i, p in enumerate(arms)]


CORE = (("vcd", Greedy()), ("nbce", Sampling(1.3, top_k=40)))
CLOSE = 2e-3
"""Of log-probabilities and shares: in a contrast, what rounds by 1e-5 in logits is several times that."""


def sample(name: str) -> list[tuple[int, Strategy]]:
    """The strategies of an architecture, with their numbers: a hash of its name gives each strategy one; CORE has all.

    Every one for each architecture with `ICL_ARCHITECTURES=all` (`make nightly`).
    """
    strategies, place = list(enumerate(family())), ARCHITECTURES.index(name)
    if os.environ.get("ICL_ARCHITECTURES") == "all":
        return strategies
    names = [one.component[1] for _, one in strategies]  # type: ignore[attr-defined]
    own = [crc32(one.encode()) % len(ARCHITECTURES) == place or one in dict(CORE) for one in names]
    return list(compress(strategies, own))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_strategy_equals_forward_passes_over_the_whole_text(name: str, model_of: Callable[[str], HF]) -> None:
    """Many steps in one batch of 16 queries: each strategy greedy on one and sampled on another, two on all of them."""
    model, prompts, sampling = model_of(name), sixteen(), Sampling(1.3, top_k=40)
    requests, checked = [], []
    for i, strategy in sample(name):
        for sampler, place in ((Greedy(), i % 16), (sampling, (i + 9) % 16)):
            everywhere = (strategy.component[1], sampler) in CORE  # type: ignore[attr-defined]
            for q in range(16) if everywhere else (place,):
                requests.append(DecodingRequest(prompts[q], Arm(strategy, sampler), max_new_tokens=STEPS))
                checked.append(q == place)
    answers = run_requests(model, requests)
    assert all(isinstance(answer, Generation) for answer in answers), [a for a in answers if isinstance(a, Failure)]
    generations = [answer for answer in answers if isinstance(answer, Generation)]
    assert sum(len(answer.tokens) == STEPS for answer in generations) > len(generations) / 2
    with torch.inference_mode():
        faults = [
            wrong(model, request.arm, request.prompt, answer)
            for request, answer, check in zip(requests, generations, checked, strict=True)
            if check
        ]
    assert not [fault for fault in faults if fault]
    for i in (0, len(requests) // 2, len(requests) - 1):
        (single,) = run_requests(model, [requests[i]])
        assert isinstance(single, Generation)
        assert single.tokens == generations[i].tokens
