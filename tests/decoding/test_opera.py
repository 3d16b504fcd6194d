"""OPERA against a slow version without a cache, against plain beam search, and its search in sessions of every kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.arms.requirements import unsupported_reason
from decoding.base import Beams, Strategy, Traits
from decoding.engine.answer_search import AnswerSearch
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from decoding.formulas.sampling import Beam
from decoding.strategies.opera import OPERA, extended, over_trust
from icl.errors import ConfigError
from icl.models.hf.model import HF
from icl.models.hf.prompt_encoding import process_prompt
from icl.streams import StreamKey
from icl.types import Generation, Part, Prompt, Turn

NEW_TOKENS = 24


def question(number: int) -> Prompt:
    image = Part(tiny_models.image(number, (56, 56)), "query.image[0]")
    return Prompt((Turn("user", (image, Part("color?", "query.question"))),), StreamKey(0, f"q{number}"))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            folder = tiny_models.save(name, tmp_path_factory.mktemp(name))
            if name == "llava":
                sharpen(folder)
            made[name] = HF(path=str(folder), dtype="float32", device="cpu")
            made[name].load()
        return made[name]

    return get


def sharpen(folder: Path) -> None:
    """Attention of the last layer that prefers some tokens, so that one column can be the summary token for long."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        model.get_decoder().layers[-1].self_attn.q_proj.weight.mul_(8)
    model.save_pretrained(folder)


class Slow:
    """Whole forward passes of a Llava with eager attention: logits and last attentions of several outputs at once."""

    def __init__(self, model: HF, prompt: Prompt) -> None:
        from transformers import AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(model.path, attn_implementation="eager").eval()
        inputs = dict(process_prompt(model.renderer, prompt))
        read: list[Tensor] = []
        handle = self.model.get_decoder().layers[0].register_forward_pre_hook(lambda module, args: read.append(args[0]))
        with torch.no_grad():
            self.model(**inputs, use_cache=False)
        handle.remove()
        (self.prompt,) = read
        self.length = self.prompt.shape[1]
        ((begin, end),) = model.span_tokens([prompt], ["query_images"])[0]["query_images"]
        self.image = slice(begin, end)

    def __call__(self, outputs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Logits of the last tokens [n, V], and attentions [n, T, T], maximum over heads, rows that sum to one."""
        new = self.model.get_input_embeddings()(torch.tensor(outputs, dtype=torch.long))
        states = torch.cat([self.prompt.expand(len(outputs), -1, -1), new], 1)
        with torch.no_grad():
            output = self.model.get_decoder()(inputs_embeds=states, output_attentions=True, use_cache=False)
            logits = self.model.lm_head(output.last_hidden_state[:, -1])
        attention = output.attentions[-1].amax(1)
        return logits, attention / attention.sum(-1, keepdim=True)


@dataclass
class State:
    """The beams before a step: their tokens and sums, and the tokens chosen there, as numbers of beam and token."""

    beams: list[tuple[list[int], float]]
    used: set[tuple[int, int]]


def released_steps(slow: Slow, method: OPERA, beams: int, length: int) -> tuple[list[int], float, list[int]]:
    """The best output without a stop token, its sum of log-probabilities, and the steps that the search went back to.

    The steps of the released `opera_beam_search`: whole windows of attention, a product over each column, modes.
    """
    states, locations, times, went = [State([([], 0.0)], set())], list[Tensor](), [0] * (length + 2), list[int]()
    while len(states) <= length:
        own = states[-1]
        tokens = [one for one, _ in own.beams]
        logits, _ = slow(tokens)
        best = logits.topk(method.candidates)
        ahead = [[*one, int(token)] for one, row in zip(tokens, best.indices, strict=True) for token in row]
        attention = slow(ahead)[1].view(*best.indices.shape, slow.length + len(ahead[0]), -1)
        window = method.scale * attention[..., slow.length :, slow.length :]
        columns = range(window.shape[-1])
        phi = torch.stack([1e-7 * window[..., j:, j].prod(-1) for j in columns], -1).half().float()
        values, places = phi.max(-1)
        penalty = -attention[..., -1, slow.image].sum(-1) if len(columns) <= 10 else values
        rows = places.mode().values
        rows = torch.cat([rows, rows[-1:].expand(beams - len(rows))])
        locations = [*locations[: len(states) - 1], rows]
        column = int(rows.mode().values)
        scores = torch.full_like(logits, -torch.inf).scatter(
            -1, best.indices, best.values - method.penalty_weight * penalty
        )
        if bool(((torch.stack(locations, 1) == column).sum(1) > method.threshold).all()) and column >= 10:
            back = column + 1 if times[column + 1] < method.returns else column
            if times[back] < method.returns:
                times[back] += 1
                went.append(back)
                del states[back + 1 :]
                own = states[-1]
                scores, _ = slow([one for one, _ in own.beams])
                for beam, token in own.used:
                    scores[beam, token] = -torch.inf
        sums = scores.log_softmax(-1) + torch.tensor([[total] for _, total in own.beams])
        chosen = sums.flatten().topk(min(beams, int(sums.isfinite().sum())))
        new = []
        for value, place in zip(chosen.values.tolist(), chosen.indices.tolist(), strict=True):
            beam, token = divmod(place, logits.shape[-1])
            own.used.add((beam, token))
            new.append(([*own.beams[beam][0], token], value))
        states.append(State(new, set()))
    (tokens_of_best, total), *_ = states[-1].beams
    return tokens_of_best, total, went


def answered(model: HF, arm: Arm | str | dict[str, Any], prompt: Prompt, length: int = NEW_TOKENS) -> Generation:
    (answer,) = run_requests(model, [DecodingRequest(prompt, parse_arm(arm), max_new_tokens=length)])
    assert isinstance(answer, Generation), answer
    return answer


@pytest.mark.parametrize(
    ("number", "method", "returns"),
    [(4, OPERA(scale=300, threshold=2), [12]), (1, OPERA(penalty_weight=3, threshold=2), [])],
    ids=["returns", "stays"],
)
def test_opera_equals_the_released_steps_in_whole_forward_passes(
    number: int,
    method: OPERA,
    returns: list[int],
    model_of: Callable[[str], HF],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The released steps, written for one prompt without a cache."""
    model, prompt = model_of("llava"), question(number)
    monkeypatch.setattr(HF, "stop_tokens", frozenset())
    tokens, total, went = released_steps(Slow(model, prompt), method, 5, NEW_TOKENS)
    assert went == returns, "the case goes back as often as it says"
    answer = answered(model, Arm(method, method.sampler), prompt)
    assert list(answer.tokens) == tokens
    assert sum(answer.trace["logprob"]) == pytest.approx(total, abs=1e-3)
    without = answered(model, Arm(replace(method, returns=0), Beam(5)), prompt)
    assert (without.tokens == answer.tokens) == (not returns)
    assert answer.tokens != answered(model, {"name": "beam", "beams": 5}, prompt).tokens


@pytest.mark.parametrize("beams", [1, 3])
def test_without_penalty_and_returns_it_is_beam_search(beams: int, model_of: Callable[[str], HF]) -> None:
    model, whole = model_of("llava"), {"name": "opera", "penalty_weight": 0, "returns": 0, "candidates": 320}
    for number in range(3):
        searched = answered(model, {**whole, "sampling": {"beams": beams}}, question(number), 4)
        plain = answered(model, {"name": "beam", "beams": beams}, question(number), 4)
        assert (searched.tokens, searched.text, searched.finish) == (plain.tokens, plain.text, plain.finish)
        assert searched.trace["logprob"] == pytest.approx(plain.trace["logprob"], abs=1e-4)
        if beams == 1:
            assert searched.tokens == answered(model, "greedy", question(number), 4).tokens


def test_the_attention_to_images_and_shuffled_penalties_change_answers(model_of: Callable[[str], HF]) -> None:
    model = model_of("llava")
    own: dict[str, Any] = {"name": "opera", "penalty_weight": 40}
    nodes = [own, {**own, "attention": "shuffled"}, {"name": "beam"}]
    answers = [[answered(model, node, question(i), 5).tokens for i in range(4)] for node in nodes]
    assert answers[0] != answers[1]
    assert answers[0] != answers[2]
    assert answers[0] == [answered(model, own, question(i), 5).tokens for i in range(4)]


def test_a_search_beside_other_arms_answers_as_alone_and_counts_its_rows(model_of: Callable[[str], HF]) -> None:
    model, nodes = model_of("llava"), ["greedy", "opera", {"name": "opera", "preset": "efficient"}, "beam"]
    requests = [DecodingRequest(question(i), parse_arm(node), max_new_tokens=4) for i in range(2) for node in nodes]
    together = run_requests(model, requests)
    assert [one.tokens for one in together if isinstance(one, Generation)] == [
        answered(model, request.arm, request.prompt, 4).tokens for request in requests
    ]
    counters = Counters()
    (answer,) = run_requests(model, [requests[1]], counters, trace=True)
    assert isinstance(answer, Generation)
    assert (answer.usage.forwards, counters.rows) == (1 + counters.rows, 5 + 3 * 25), "one beam at the first step"
    assert counters.forwards == 4
    assert len(answer.trace["logprob"]) == len(answer.tokens) == 4
    assert max(answer.trace["plausible_tokens"]) == 5


@dataclass(frozen=True, eq=False)
class Wanderer(Strategy):
    """Reads ahead, chooses, and takes tokens back, and stores the logits that it read."""

    states: list[tuple[list[list[int]], Tensor]] = field(default_factory=list)
    traits = Traits(rows_per_beam=2)

    def search(self, beams: Beams) -> None:
        assert isinstance(beams, AnswerSearch)
        backs = [2, 0, 1]
        while not beams.is_over:
            beams.look_ahead(beams.logits.topk(2).indices)
            self.states.append(([one.tokens for _, one in beams.beams.running], beams.logits.clone()))
            used = beams.take_back(backs.pop(0)) if beams.step == 3 and backs else None
            beams.choose(beams.logits if used is None else beams.logits.masked_fill(used, -torch.inf))


@pytest.mark.parametrize("name", tiny_models.SAMPLE)
def test_beams_read_ahead_and_taken_back_are_in_the_state_of_their_tokens(
    name: str, model_of: Callable[[str], HF]
) -> None:
    """On caches of every kind: whole ones, windows, positions of three axes, recurrent states."""
    model, method, prompt = model_of(name), Wanderer(), tiny_models.prompt([1, 2])
    answered(model, Arm(method, Beam(2)), prompt, 5)
    assert [len(tokens[0]) for tokens, _ in method.states] == [0, 1, 2, 3, 3, 1, 2, 3, 2, 3, 4]
    for tokens, logits in method.states:
        for own, row in zip(tokens, logits, strict=True):
            session = model.open([prompt])
            if own:
                session.extend([own])
            assert torch.allclose(session.logits[0], row, atol=1e-4)


def test_products_of_columns_are_finite_and_small_ones_are_no_maximum() -> None:
    first = extended(torch.ones(1, 0), torch.tensor([[0.9, 0.2]]), 50.0)
    assert first.tolist() == [[pytest.approx(10.0)]], "the last weight is that of the token itself"
    second = extended(first, torch.tensor([[0.9, 0.1, 0.004]]), 50.0)
    assert second.tolist() == [[pytest.approx(50.0), pytest.approx(0.2)]]
    value, column = over_trust(torch.tensor([[0.2, 0.1], [1e30, 1.0], [0.1, 50.0]]))
    assert column.tolist() == [0, 0, 1]
    assert value.tolist() == [0.0, 65504.0, pytest.approx(5e-6, rel=0.01)]


def test_its_controls_are_searches_and_references_without_wrappers() -> None:
    labels = [arm.label for arm in default_controls(parse_arm("opera"))]
    assert labels[:3] == ["opera(attention=shuffled)", "greedy", "beam(beams=5)"]
    assert not [label for label in labels if "(opera" in label]
    shuffled = default_controls(parse_arm({"name": "opera", "attention": "shuffled"}))
    assert [arm.label for arm in shuffled] == labels[1:], "the control is no control of itself"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"candidates": 0}, "candidates"),
        ({"threshold": 1}, "threshold"),
        ({"scale": 0}, "scale"),
        ({"penalty_weight": -1}, "penalty_weight"),
        ({"returns": -1}, "returns"),
        ({"attention": "uniform"}, "attention"),
        ({"sampling": {"beams": 0}}, "beams"),
    ],
)
def test_a_bad_parameter_is_refused_by_its_name(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arm({"name": "opera", **node})


def test_what_cannot_search_is_refused_in_the_plan_and_by_the_engine(model_of: Callable[[str], HF]) -> None:
    arm, abilities = parse_arm("opera"), HF.abilities
    assert unsupported_reason(arm, abilities) is None
    assert "cannot score options. Use answer_mode: generate" in str(unsupported_reason(arm, abilities, "options"))
    sampled = parse_arm({"name": "opera", "sampling": {"temperature": 0.7}})
    assert "it is a beam search. Use sampling: {beams: 5}" in str(unsupported_reason(sampled, abilities))
    refused = run_requests(
        model_of("llava"),
        [DecodingRequest(question(1), sampled), DecodingRequest(question(1), arm, ("red", "blue"), "options")],
    )
    assert ["is a beam search" in str(refused[0]), "cannot score options" in str(refused[1])] == [True, True]
    assert "edits of attention or hidden states" in str(unsupported_reason(arm, frozenset({"generate", "strategies"})))
