"""Negatives of contrasts that are made from attention, against slow versions: own hooks, whole prompts, no cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from decoding.arms.arm import default_controls, parse_arm
from decoding.arms.requirements import branch_edit_refusal, unsupported_reason
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from decoding.engine.result_collector import PrepareGenerator
from decoding.strategies.ascd import ASCD
from decoding.strategies.avisc import AvisC
from decoding.strategies.only import ONLY, text_heads
from decoding.strategies.sid import SID
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.models.hf.prompt_encoding import process_prompt
from icl.streams import StreamKey
from icl.types import Generation, Part, Prompt, Turn

STEPS = 3
each = pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])


def question(number: int) -> Prompt:
    """A demonstration and a question, each with an image."""
    first, second = (tiny_models.image(number + i, (84, 112)) for i in range(2))
    demo = (Part(first, "demo[0].image[0]"), Part("what?", "demo[0].question"))
    query = (Part(second, "query.image[0]"), Part("color" + "?" * number, "query.question"))
    turns = Turn("user", demo), Turn("assistant", (Part("blue", "demo[0].answer"),)), Turn("user", query)
    return Prompt(turns, StreamKey(0, f"q{number}"))


class Slow:
    """Whole forward passes of a model of transformers with eager attention, on the inputs of its own processor."""

    def __init__(self, model: HF, prompt: Prompt) -> None:
        from transformers import AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(model.path, attn_implementation="eager").eval()
        self.inputs = dict(process_prompt(model.renderer, prompt))
        runs = model.span_tokens([prompt], ["query_images"])[0]["query_images"]
        self.image = [token for begin, end in runs for token in range(begin, end)]
        self.length = self.inputs["input_ids"].shape[1]
        self.layers = self.model.get_decoder().layers

    def with_output(self, tokens: list[int]) -> dict[str, Any]:
        added = torch.tensor([tokens], dtype=torch.long)
        own = dict(self.inputs)
        own["input_ids"] = torch.cat([own["input_ids"], added], 1)
        for name in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
            if name in own:
                fill = torch.full_like(added, int(name == "attention_mask"))
                own[name] = torch.cat([own[name], fill], 1)
        return own

    def logits(self, tokens: list[int], hooks: Any = None) -> Tensor:
        """Of the last token."""
        with torch.no_grad(), hooks or no_hooks():
            logits: Tensor = self.model(**self.with_output(tokens), use_cache=False).logits[0, -1].float()
        return logits

    def attentions(self, tokens: list[int], hooks: Any = None) -> list[Tensor]:
        """Of each layer, of all tokens: [T, T], mean over heads."""
        with torch.no_grad(), hooks or no_hooks():
            output = self.model(**self.with_output(tokens), use_cache=False, output_attentions=True)
        return [layer[0].mean(0) for layer in output.attentions]


@contextmanager
def no_hooks() -> Iterator[None]:
    yield


@contextmanager
def masked(layers: Any, first: int, mask: Tensor) -> Iterator[None]:
    """From a layer on, another attention mask: [T, T] bool."""
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": additive}

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in list(layers)[first:]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sid_negative(slow: Slow, method: SID, tokens: list[int]) -> Tensor:
    """Logits of the branch: each row of the mask has the choice of the token that was last when it was read."""
    size = slow.length + len(tokens)
    mask = torch.ones(size, size, dtype=torch.bool).tril()
    for end in range(slow.length, size + 1):
        step = tokens[: end - slow.length]
        current = masked(slow.layers, method.layer, mask[:end, :end].clone())
        attention = slow.attentions(step, current)[method.layer - 1][end - 1]
        order = sorted(slow.image, key=lambda token: float(attention[token]))
        count = -(-len(order) * method.share // 1)
        rows = slice(0, slow.length) if end == slow.length else slice(end - 1, end)
        mask[rows, order[int(count) :]] = False
    return slow.logits(tokens, masked(slow.layers, method.layer, mask))


def decoded(model: HF, node: dict[str, Any], prompts: list[Prompt]) -> list[Generation]:
    requests = [DecodingRequest(one, parse_arm(node), max_new_tokens=STEPS) for one in prompts]
    results = run_requests(model, requests)
    assert all(isinstance(one, Generation) for one in results), results
    return results  # type: ignore[return-value]


def branch_logits(model: HF, method: Any, prompt: Prompt, tokens: list[int]) -> list[Tensor]:
    """Of branch 1 at each step, in a batch with the prompt alone and another prompt's branch."""
    rows = model.open([method.branches(prompt)[1], prompt, method.branches(question(4))[1]])
    steps = [rows.logits[0].float()]
    for token in tokens:
        rows.advance(torch.tensor([token] * 3))
        steps.append(rows.logits[0].float())
    return steps


@each
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_sid_equals_masks_of_whole_forward_passes(name: str, share: float, model_of: Callable[[str], HF]) -> None:
    model, prompt, method = model_of(name), question(1), SID(share=share, layer=1)
    slow, tokens = Slow(model, prompt), [5, 9]
    for number, own in enumerate(branch_logits(model, method, prompt, tokens)):
        expected = sid_negative(slow, method, tokens[:number])
        assert torch.allclose(own, expected, atol=1e-4), float((own - expected).abs().max())
        assert float((own - slow.logits(tokens[:number])).abs().max()) > 1e-2


def avisc_staying(slow: Slow, method: AvisC) -> list[int]:
    """The tokens of the image that stay, by the steps of the released code."""
    layers = [layer[-1, slow.image] for layer in slow.attentions([])]
    portions = torch.stack([layer.sum() for layer in layers])
    portions = portions / portions.sum()
    ordered = torch.sort(portions / portions.sum(), descending=True)[0][None]
    count = int((torch.cumsum(ordered, dim=1) < method.gamma).sum() + 1)
    _, best = torch.topk(portions, count, dim=0)
    mean = torch.stack([layers[i] for i in best]).mean(0)
    dropped = torch.where(mean < mean.mean() + mean.std() * method.lamb)[0].tolist()
    return [token for i, token in enumerate(slow.image) if i not in dropped]


@contextmanager
def zeroed(layers: Any, tokens: list[int]) -> Iterator[None]:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        states = (args[0] if args else kwargs["hidden_states"]).clone()
        states[:, tokens] = 0
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    handle = layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@each
@pytest.mark.parametrize(("gamma", "lamb"), [(0.5, 1.0), (1.0, 0.2)])
def test_avisc_equals_zeroed_features_of_whole_forward_passes(
    name: str, gamma: float, lamb: float, model_of: Callable[[str], HF]
) -> None:
    model, prompt, method = model_of(name), question(1), AvisC(gamma=gamma, lamb=lamb)
    slow, tokens = Slow(model, prompt), [5, 9]
    staying = avisc_staying(slow, method)
    assert 0 < len(staying) < len(slow.image)
    generate = PrepareGenerator(run_requests, model, Counters(), {})
    note, other = method.prepare([prompt, question(4)], generate)
    branch = method.branches(prompt, note)[1]
    rows = model.open([branch, prompt, method.branches(question(4), other)[1]])
    gone = [token for token in slow.image if token not in staying]
    for number in range(len(tokens) + 1):
        own, expected = rows.logits[0].float(), slow.logits(tokens[:number], zeroed(slow.layers, gone))
        assert torch.allclose(own, expected, atol=1e-4), float((own - expected).abs().max())
        assert float((own - slow.logits(tokens[:number])).abs().max()) > 1e-2
        if number < len(tokens):
            rows.advance(torch.tensor([tokens[number]] * 3))
    random = replace(method, tokens="random").prepare([prompt], generate)[0]
    assert len(random[0]) == len(staying)  # type: ignore[index]
    assert random[0] != note[0]  # type: ignore[index]


class OwnAttention:
    """Attention of transformers' registry, written out, with an edit of the scores of the decoder's layers.

    Attributes:
        edit: Layer, scores [H, T, T] -> the new scores.
    """

    edit: Callable[[int, Tensor], Tensor]

    def __init__(self, slow: Slow) -> None:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import eager_mask

        AttentionInterface.register("own", self)
        AttentionMaskInterface.register("own", eager_mask)
        self.numbers = {layer.self_attn: number for number, layer in enumerate(slow.layers)}
        slow.model.get_decoder().config._attn_implementation = "own"

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        groups = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
        scores = query @ key.transpose(2, 3) * settings["scaling"]
        size = scores.shape[-1]
        scores = self.edit(self.numbers[module], scores[0]).masked_fill(torch.ones(size, size).triu(1) > 0, -torch.inf)
        weights = scores.softmax(-1)[None]
        return (weights @ value).transpose(1, 2).contiguous(), weights


def ascd_logits(
    model: HF, prompt: Prompt, method: ASCD, heads: list[tuple[int, int]], tokens: list[int]
) -> list[Tensor]:
    """Logits of the branches with more and with less attention, by the released steps."""
    slow = Slow(model, prompt)
    own, begin, end = OwnAttention(slow), slow.image[0], slow.image[-1] + 1
    count = -int(-(end - begin) * method.share // 1)

    def more(layer: int, scores: Tensor) -> Tensor:
        new = scores.clone()
        for head in (head for at, head in heads if at == layer):
            part = new[head, slow.length - 1 :, begin:end]
            part += method.strengthen * part.abs()
        return new

    def less(layer: int, scores: Tensor) -> Tensor:
        new = scores.clone()
        for head in range(len(new)):
            for row in range(slow.length - 1, new.shape[1]):
                part = new[head, row, begin:end]
                best = part.topk(count).indices
                part[best] -= method.weaken * part[best].abs()
        return new

    logits = []
    for own.edit in (lambda layer, scores: scores, more, less):
        logits.append(slow.logits(tokens))
    assert torch.allclose(logits[0], Slow(model, prompt).logits(tokens), atol=1e-5), "the attention is written out well"
    return logits[1:]


@each
def test_ascd_equals_scores_changed_in_whole_forward_passes(name: str, model_of: Callable[[str], HF]) -> None:
    model, prompt = model_of(name), question(1)
    method, tokens = ASCD(share=0.3, heads=0.4), [5, 9]
    slow = Slow(model, prompt)
    with torch.no_grad():
        attentions = slow.model(**slow.inputs, output_attentions=True).attentions
    to_image = {
        (layer, head): float(own[0, head, -1, slow.image].sum())
        for layer, own in enumerate(attentions)
        for head in range(own.shape[1])
    }
    count = -int(-len(to_image) * method.heads // 1)
    heads = sorted(to_image, key=to_image.__getitem__)[:count]
    note, other = method.prepare([prompt, question(4)], PrepareGenerator(run_requests, model, Counters(), {}))
    assert sorted((layer, head) for layer, own in note.items() for head in own) == sorted(heads)  # type: ignore[attr-defined]
    _, up, down = method.branches(prompt, note)
    rows = model.open([up, prompt, down, method.branches(question(4), other)[1]])
    for number in range(len(tokens) + 1):
        expected = ascd_logits(model, prompt, method, heads, tokens[:number])
        reference = slow.logits(tokens[:number])
        for row, logits in zip((0, 2), expected, strict=True):
            own = rows.logits[row].float()
            assert torch.allclose(own, logits, atol=1e-4), float((own - logits).abs().max())
            assert float((own - reference).abs().max()) > 1e-3
        scores = method.combine(torch.stack([reference, *expected])[:, None], number)[0]
        assert torch.allclose(scores, 2 * expected[0] - expected[1])
        if number < len(tokens):
            rows.advance(torch.tensor([tokens[number]] * 4))


def test_ascd_draws_as_many_random_heads_and_has_no_negative_of_another_sample(
    model_of: Callable[[str], HF],
) -> None:
    method, generate = ASCD(heads=0.4), PrepareGenerator(run_requests, model_of("llava"), Counters(), {})
    chosen, random = (one.prepare([question(1)], generate)[0] for one in (method, replace(method, choice="random")))
    assert sum(map(len, chosen.values())) == sum(map(len, random.values()))  # type: ignore[attr-defined]
    assert chosen != random
    controls = [type(arm.strategy).component[1] for arm in default_controls(parse_arm("ascd"))]
    assert {"mask_only", "sign_flip"} < set(controls)
    assert "shuffled_negative" not in controls  # its prompt with more attention must be its own


def only_negative(slow: Slow, layer: int, tokens: list[int]) -> tuple[Tensor, set[int]]:
    """Logits of the branch by the steps of the released code, and the heads that it removes."""
    own, values, inputs = OwnAttention(slow), dict[int, Tensor](), dict[int, Tensor]()
    scores_of: dict[int, Tensor] = {}

    def keep(number: int, scores: Tensor) -> Tensor:
        scores_of[number] = scores
        return scores

    own.edit = keep
    last, chosen = slow.layers[-1], slow.layers[layer]
    handles = [
        chosen.self_attn.v_proj.register_forward_hook(lambda module, args, output: values.update({layer: output[0]})),
        last.register_forward_pre_hook(lambda module, args: inputs.update({-1: args[0][0, -1]})),
    ]
    logits = slow.logits(tokens)
    for handle in handles:
        handle.remove()
    scores = scores_of[layer][:, -1]
    weights = scores.softmax(-1)
    heads, size = weights.shape
    value = values[layer].view(size, -1, chosen.self_attn.head_dim).transpose(0, 1)
    value = value.repeat_interleave(heads // len(value), 0)
    text = [key for key in range(1, size) if key not in slow.image]
    ratios, mixed = [], []
    for head in range(heads):
        row = weights[head].clone()
        entropies = []
        for keys in (text, slow.image):
            part = row[keys]
            part = torch.where(part > part.mean() + part.std(), 0.0, part)
            row[keys] = part
            share = part / part.sum()
            entropies.append(float(-(share * (share + 1e-6).log()).sum()))
        ratios.append(entropies[0] / entropies[1])
        mixed.append(row @ value[head])
    removed = {head for head, ratio in enumerate(ratios) if ratio < sum(ratios) / heads}
    joined = torch.cat([one * (head not in removed) for head, one in enumerate(mixed)])
    with torch.no_grad():
        state = last.input_layernorm(chosen.self_attn.o_proj(joined)) + 0.2 * inputs[-1]
        state = state + last.mlp(last.post_attention_layernorm(state))
        branch: Tensor = slow.model.get_output_embeddings()(slow.model.get_decoder().norm(state))
    assert torch.allclose(logits, slow.logits(tokens))
    return branch, removed


@each
def test_only_equals_the_released_steps_on_whole_forward_passes(name: str, model_of: Callable[[str], HF]) -> None:
    model, prompt, method, tokens = model_of(name), question(1), ONLY(), [5, 9]
    note, other = method.prepare([prompt, question(4)], PrepareGenerator(run_requests, model, Counters(), {}))
    rows = model.open([method.branches(prompt, note)[1], prompt, method.branches(question(4), other)[1]])
    for number in range(len(tokens) + 1):
        slow = Slow(model, prompt)
        reference = slow.logits(tokens[:number])
        expected, removed = only_negative(slow, method.layer, tokens[:number])
        assert 0 < len(removed) < model.sites.num_heads(0)
        own = rows.logits[0].float()
        assert torch.allclose(own, expected, atol=1e-4), float((own - expected).abs().max())
        assert torch.allclose(rows.logits[1].float(), reference, atol=1e-4), "the prompt itself stays"
        assert float((own - reference).abs().max()) > 1e-2
        if number < len(tokens):
            rows.advance(torch.tensor([tokens[number]] * 3))


def test_only_adds_a_close_branch_and_contrasts_with_another() -> None:
    """z = z_1 + .5 z_0 is z_0 if z_1 is .5 z_0; its distribution then has distance 0."""
    reference, far = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[-5.0, 5.0, 0.0]])
    close = torch.stack([reference, reference / 2])
    method = ONLY(collaborate=3.0, contrast=1.0)
    assert torch.allclose(method.combine(close, 0), 4 * reference)
    other = far + reference / 2
    assert torch.allclose(method.combine(torch.stack([reference, far]), 0), 2 * reference - other)


def test_only_has_a_random_control_and_names_what_a_model_lacks(
    model_of: Callable[[str], HF], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(1)).softmax(-1)
    image = (torch.arange(9) > 5).expand_as(weights)
    chosen, random = (
        text_heads(weights, image, order).sum(-1) > 0 for order in (None, torch.tensor([3, 1, 0, 2, 7, 5, 4, 6]))
    )
    assert chosen.sum(1).tolist() == random.sum(1).tolist()
    assert not torch.equal(chosen, random)
    generate = PrepareGenerator(run_requests, model_of("llava"), Counters(), {})
    monkeypatch.setattr(type(model_of("llava").sites), "attention_norm", lambda self, layer: None)
    with pytest.raises(ModelError, match="'only' reads the output projection of layer 0 and a norm"):
        ONLY().prepare([question(1)], generate)


def test_an_image_of_one_token_stays_and_no_image_is_no_contrast() -> None:
    assert AvisC()._staying(torch.tensor([[0.1, 0.9]]), [(1, 2)]) == ((0,), 1)
    assert AvisC()._staying(torch.tensor([[0.1, 0.9]]), []) == ((), 0)
    prompt = question(1)
    assert [AvisC().branches(prompt, note)[1] is prompt for note in (((0,), 1), ((), 0), None)] == [True, True, False]


@pytest.mark.parametrize("node", [{"name": "sid", "share": 0.3, "layer": 1}, {"name": "avisc", "lamb": 0.3}], ids=str)
def test_negatives_from_attention_decode_alike_alone_and_in_a_batch(
    node: dict[str, Any], model_of: Callable[[str], HF]
) -> None:
    model, prompts = model_of("llava"), [question(1), question(4), question(6)]
    alone = [decoded(model, node, [one])[0].tokens for one in prompts]
    assert [one.tokens for one in decoded(model, node, prompts)] == alone
    at_zero = decoded(model, {**node, "alpha": 0.0}, prompts)
    assert [one.tokens for one in at_zero] == [one.tokens for one in decoded(model, {"name": "greedy"}, prompts)]


@pytest.mark.parametrize("name", ["sid", "avisc", "ascd", "only"])
def test_models_without_hidden_states_are_refused_in_the_plan(name: str) -> None:
    reason = unsupported_reason(parse_arm(name), frozenset({"logits"}))
    assert "needs edits of attention or hidden states" in str(reason)
    assert unsupported_reason(parse_arm(name), frozenset({"logits", "interventions"})) is None


def test_a_layer_that_the_model_lacks_is_refused_before_it_loads() -> None:
    model = HF(path="tiny", device="cpu")
    refusal = branch_edit_refusal(parse_arm({"name": "sid", "layer": 4}), model)
    assert refusal == "the model has no layer 4. Its 4 layers are 0 to 3; -1 is the last."
    assert branch_edit_refusal(parse_arm({"name": "sid", "layer": 3}), model) is None
