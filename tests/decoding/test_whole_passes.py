"""Rebuilt methods, against slow versions: own hooks on a model of transformers, whole prompts, no cache."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor, nn

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.interventions.aim import AIM
from decoding.interventions.base import FittedMethod, FittedTensors
from decoding.interventions.embedding_prefix import EmbeddingPrefix
from decoding.interventions.reconstructions.context_vectors import ContextVectors
from decoding.interventions.reconstructions.dara import DARA
from decoding.interventions.reconstructions.m2iv import M2IV
from decoding.interventions.stv import STV
from decoding.interventions.vector_file import write_vector_file
from decoding.interventions.virtual_tokens import SLOTS
from icl import Example, Generation, build, edits
from icl.models.hf.model import HF
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn
from tests.decoding.test_attention_negatives import Slow

TOKENS = [5, 9, 7]
each = pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
GENERATOR = torch.Generator().manual_seed(3)


def turns(number: int, color: int, question: str, answer: str) -> tuple[Turn, Turn]:
    """A demonstration with an image."""
    span = f"demo[{number}]"
    image = Part(tiny_models.image(color, (84, 112)), f"{span}.image[0]")
    asks = Turn("user", (image, Part(question, f"{span}.question")))
    return asks, Turn("assistant", (Part(answer, f"{span}.answer"),))


DEMONSTRATIONS = ((1, "what color?", "blue"), (4, "which?", "it is red"))
QUERY = Turn("user", (Part(tiny_models.image(6, (84, 112)), "query.image[0]"), Part("what color??", "query.question")))


def prompt(*demonstrations: Turn, query: Turn = QUERY) -> Prompt:
    return Prompt((*demonstrations, query), StreamKey(0, "q"))


def whole() -> Prompt:
    return prompt(*(turn for i, demo in enumerate(DEMONSTRATIONS) for turn in turns(i, *demo)))


def fitted(method: FittedMethod, path: Path, model: HF, tensor: Tensor, **parameters: Any) -> Any:
    """The method with a tensor of the test in its file."""
    name = type(method).component[1]  # type: ignore[attr-defined]
    result = FittedTensors({method.tensor: tensor}, parameters, {})
    record = {"width": model.sites.width}
    write_vector_file(path, name, tensors=result.tensors, parameters=parameters, record=record, report={})
    return type(method)(fitted=str(path))


def check(model: HF, method: Any, own: Prompt, slow: Slow, hooks: Callable[[], Any]) -> None:
    """Each step of a session under the method, in a batch with another prompt, has the logits of a whole pass."""
    [steered, other] = method.steered([own, prompt(*turns(0, 2, "which one?", "green"))], model)
    rows = model.open([steered, other])
    for number in range(len(TOKENS)):
        expected = slow.logits(TOKENS[:number], hooks())
        assert torch.allclose(rows.logits[0].float(), expected, atol=1e-4), float(
            (rows.logits[0] - expected).abs().max()
        )
        assert float((expected - slow.logits(TOKENS[:number])).abs().max()) > 1e-3, "the method changes something"
        rows.advance(torch.tensor([TOKENS[number]] * 2))


@contextmanager
def hooked(*pairs: tuple[nn.Module, Callable[[Any], Any]], before: bool = False) -> Iterator[None]:
    """Outputs of modules, or their first inputs, are changed."""

    def after(change: Callable[[Any], Any], _module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    def first(change: Callable[[Any], Any], _module: Any, args: Any) -> Any:
        return (change(args[0]), *args[1:])

    handles = [
        module.register_forward_pre_hook(partial(first, change))
        if before
        else module.register_forward_hook(partial(after, change))
        for module, change in pairs
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def text_tokens(model: HF, own: Prompt, span: str) -> list[int]:
    [ranges] = model.span_tokens([own], [span])
    return [token for begin, end in ranges[span] for token in range(begin, end)]


def states_read_alone(model: HF) -> Tensor:
    """What the last layer leaves at the text tokens of each demonstration, read alone with its image."""
    states: list[Tensor] = []
    for demo in DEMONSTRATIONS:
        alone = prompt(*turns(0, *demo), query=Turn("user", (Part("\n.", "query.question"),)))
        slow, states_of_layer = Slow(model, alone), list[Tensor]()
        with hooked((slow.layers[-1], lambda x, states_of_layer=states_of_layer: states_of_layer.append(x) or x)):
            slow.logits([])
        states.append(states_of_layer[0][0, text_tokens(model, alone, "demo_texts")])
    return torch.cat(states)


def embedded(slow: Slow, places: list[int], values: Tensor) -> Any:
    """A pass with other input embeddings at some tokens."""
    return hooked((slow.model.get_input_embeddings(), lambda x: x.index_copy(1, torch.tensor(places), values[None])))


@each
def test_aim_equals_whole_passes_with_mapped_states(name: str, model_of: Callable[[str], HF], tmp_path: Path) -> None:
    model = model_of(name)
    width = model.sites.width
    affine = torch.randn(width + 1, width, generator=GENERATOR) / width**0.5
    method = fitted(AIM(), tmp_path / "v.safetensors", model, affine, ridge=1.0)
    texts = prompt(*(Turn(turn.role, tuple(p for p in turn.parts if p.image is None)) for turn in whole().turns[:-1]))
    slow, states = Slow(model, texts), states_read_alone(model)
    values = torch.stack([affine[0] + state @ affine[1:] for state in states])
    places = text_tokens(model, texts, "demo_texts")
    check(model, method, whole(), slow, lambda: embedded(slow, places, values))


@each
def test_context_vectors_equal_whole_passes_with_pooled_states(
    name: str, model_of: Callable[[str], HF], tmp_path: Path
) -> None:
    model, count = model_of(name), 3
    width = model.sites.width
    module = torch.randn(2 * count + 1 + width, width, generator=GENERATOR) / width**0.25
    method = fitted(ContextVectors(), tmp_path / "v.safetensors", model, module, soft=False)
    units = [state / state.square().mean().sqrt() for state in states_read_alone(model)]
    values = []
    for own, query in zip(module[:count], module[count : 2 * count], strict=True):
        shares = torch.tensor([float(query @ unit) / width**0.5 for unit in units]).softmax(0)
        mapped = [unit @ module[2 * count + 1 :] + module[2 * count] for unit in units]
        values.append(own + sum(share * one for share, one in zip(shares, mapped, strict=True)))
    behind = replace(method.steered([whole()], model)[0], interventions=())
    slow, places = Slow(model, behind), text_tokens(model, behind, SLOTS)
    assert len(places) == count
    check(model, method, whole(), slow, lambda: embedded(slow, places, torch.stack(values)))


@each
def test_an_embedding_prefix_equals_whole_passes_with_its_virtual_tokens(
    name: str, model_of: Callable[[str], HF], tmp_path: Path
) -> None:
    model, embedder, count = model_of(name), EmbeddingPrefix().embedder, 4
    text = Turn("user", (Part("image: a red cup. what is it?", "query.question"),))
    vector = torch.from_numpy(embedder.embed_texts(["a red cup"])[0])
    mean = 0.1 * torch.randn(len(vector), generator=GENERATOR)
    affine = torch.randn(1 + len(vector), count, model.sites.width, generator=GENERATOR)
    parameters = {"embedder": embedder.digest, "means": {"text": mean.tolist(), "image": [0.0] * len(vector)}}
    method = fitted(EmbeddingPrefix(), tmp_path / "v.safetensors", model, affine, **parameters)
    unit = (vector - mean) / (vector - mean).square().sum().sqrt()
    values = torch.stack([affine[0, i] + unit @ affine[1:, i] for i in range(count)])
    behind = replace(method.steered([prompt(query=text)], model)[0], interventions=())
    assert re.search("image:|red cup", behind.text) is None
    slow, places = Slow(model, behind), text_tokens(model, behind, SLOTS)
    assert len(places) == count
    [steered] = method.steered([prompt(query=text)], model)
    rows = model.open([steered])
    for number in range(len(TOKENS)):
        expected = slow.logits(TOKENS[:number], embedded(slow, places, values))
        assert torch.allclose(rows.logits[0].float(), expected, atol=1e-4)
        assert float((expected - slow.logits(TOKENS[:number])).abs().max()) > 1e-3
        rows.advance(torch.tensor([TOKENS[number]]))


@each
def test_m2iv_equals_whole_passes_with_vectors_on_each_block(
    name: str, model_of: Callable[[str], HF], tmp_path: Path
) -> None:
    model = model_of(name)
    layers = len(model.sites.layers)
    vectors = 0.3 * torch.randn(2 * layers, model.sites.width, generator=GENERATOR)
    sites = [[kind, layer] for kind in ("attention", "mlp") for layer in range(layers)]
    method = fitted(M2IV(), tmp_path / "v.safetensors", model, vectors, sites=sites, tokens="all")
    slow = Slow(model, whole())
    blocks = [*(layer.self_attn for layer in slow.layers), *(layer.mlp for layer in slow.layers)]
    pairs = [(block, lambda x, own=own: x + own) for block, own in zip(blocks, vectors, strict=True)]
    check(model, method, whole(), slow, lambda: hooked(*pairs))


@each
def test_dara_equals_whole_passes_with_scaled_weights(name: str, model_of: Callable[[str], HF], tmp_path: Path) -> None:
    """A factor multiplies the attention weight of a key before weights are normalized."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    model = model_of(name)
    heads = [model.sites.num_heads(layer) for layer in range(len(model.sites.layers))]
    factors = torch.rand(len(heads), max(heads), generator=GENERATOR) * 4 + 0.2
    parameters = {"layers": [*range(len(heads))], "keys": ["images"], "tokens": "all"}
    method = fitted(DARA(), tmp_path / "v.safetensors", model, factors.log(), **parameters)
    slow, images = Slow(model, whole()), text_tokens(model, whole(), "images")
    numbers = {layer.self_attn: number for number, layer in enumerate(slow.layers)}
    scaled = False

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **settings: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
        weights = (query @ key.transpose(2, 3) * settings["scaling"]).exp().tril()
        if scaled:
            weights[..., images] *= factors[numbers[module], : weights.shape[1], None, None]
        weights /= weights.sum(-1, keepdim=True)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    AttentionInterface.register("scaled", attend)
    AttentionMaskInterface.register("scaled", eager_mask)
    slow.model.get_decoder().config._attn_implementation = "scaled"

    @contextmanager
    def scaling() -> Iterator[None]:
        nonlocal scaled
        scaled = True
        try:
            yield
        finally:
            scaled = False

    check(model, method, whole(), slow, scaling)


@each
def test_stv_equals_whole_passes_with_replaced_inputs_of_heads(
    name: str, model_of: Callable[[str], HF], tmp_path: Path
) -> None:
    model = model_of(name)
    layers = [site.layer for site in model.sites.all("heads")]
    count = model.sites.num_heads(layers[0])
    size = model_of(name).engine.runner.model.get_decoder().layers[layers[0]].self_attn.o_proj.in_features // count
    inputs = torch.randn(len(layers), count, size, generator=GENERATOR)
    chosen = [[0, 1], [1, 0], [len(layers) - 1, count - 1]]
    method = fitted(STV(), tmp_path / "v.safetensors", model, inputs, layers=layers, heads=chosen, num_heads=3)
    slow = Slow(model, whole())

    def change(layer: int, x: Tensor) -> Tensor:
        x = x.clone()
        for i, head in chosen:
            if layers[i] == layer:
                x[:, slow.length - 1 :, head * size : (head + 1) * size] = inputs[i, head]
        return x

    pairs = [(layer.self_attn.o_proj, partial(change, number)) for number, layer in enumerate(slow.layers)]
    check(model, method, whole(), slow, lambda: hooked(*pairs, before=True))


OTHER = tiny_models.image(9, (84, 112))


def branches(name: str) -> list[Prompt]:
    """What a strategy reads, in its order."""
    if name == "cicd":
        return [whole(), whole().map(lambda part: replace(part, content=OTHER) if part.name in QUERY_IMAGE else part)]
    if name == "savcd":
        return [whole(), whole().edit(edits.RegionMask(0.25, 0.25, 0.75, 0.75), "query")]
    if name == "parallel_icl":
        return [prompt(*turns(i, *demo)) for i, demo in enumerate(DEMONSTRATIONS)]
    return [whole()]


QUERY_IMAGE = ("query.image[0]",)


def entropy_in_nats(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum()


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon, in nats, of log-probabilities."""
    mean = ((one.exp() + other.exp()) / 2).log()
    return entropy_in_nats(mean) - (entropy_in_nats(one) + entropy_in_nats(other)) / 2


def scores_by_hand(name: str, steps: list[list[Tensor]]) -> Tensor:
    """Scores of the last of some steps. steps: log-probabilities [V] of each branch."""
    first, *rest = steps[-1]
    if name == "cicd":
        return first + 100 * divergence(first, rest[0]) / math.log(2) * (first - rest[0])
    if name == "savcd":
        return 2 * first - rest[0]
    if name == "parallel_icl":
        vectors = build("embedder", "pixels").embed_images(
            [
                Example(str(i), (image,), "", ("",))
                for i, image in enumerate(one.images[0] for one in [*branches(name), prompt()])
            ]
        )
        shares = torch.tensor([float(vectors[i] @ vectors[2]) / 0.1 for i in range(2)]).softmax(0)
        return shares[0] * first + shares[1] * rest[0]
    past = [(one, divergence(one, before)) for (before,), (one,) in pairwise(steps[:-1])][-8:]
    if not past:
        return first
    median = sorted(change for _, change in past)[(len(past) - 1) // 2]
    stable = [one for one, change in past if change <= median]
    return first + 0.5 * sum(one.max().exp() * one for one in stable) / sum(one.max().exp() for one in stable)


NODES: dict[str, dict[str, Any]] = {
    "cicd": {"beta": 0, "alpha": 100},
    "savcd": {"sharpest": 0, "choice": "mask"},
    "residual": {"beta": 0},
    "parallel_icl": {"chunks": "consecutive", "embedder": "pixels"},
}


@each
@pytest.mark.parametrize("strategy", NODES)
def test_strategies_equal_whole_passes_of_their_branches(
    strategy: str, name: str, model_of: Callable[[str], HF]
) -> None:
    """Scores of options of several tokens, each by its own whole passes of every branch."""
    model, options = model_of(name), ("a dog on a red mat", "two", "a blue and green bus")
    paired = prompt(query=Turn("user", (Part(OTHER, "query.image[0]"), Part("what?", "query.question"))))
    own = replace(whole(), paired_prompt=paired)
    arm = parse_arm({"name": strategy, **NODES[strategy]})
    answer, plain = run_requests(
        model, [DecodingRequest(own, one, options, "options") for one in (arm, parse_arm("greedy"))]
    )
    assert isinstance(answer, Generation)
    assert isinstance(plain, Generation)
    slow = [Slow(model, one) for one in branches(strategy)]
    for option, ids in zip(options, model.option_ids(whole(), options), strict=True):
        steps, total = list[list[Tensor]](), 0.0
        for number, token in enumerate(ids):
            steps.append([one.logits(list(ids[:number])).log_softmax(-1) for one in slow])
            total += float(scores_by_hand(strategy, steps).log_softmax(-1)[token])
        assert answer.option_scores[option] == pytest.approx(total, abs=1e-4 * len(ids))
        assert abs(answer.option_scores[option] - plain.option_scores[option]) > 1e-3 or len(ids) < 4
