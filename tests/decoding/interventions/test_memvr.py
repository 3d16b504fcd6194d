"""MemVR: the release's forward pass, written out on the layers of the model, gives the same logits."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from decoding.interventions.memvr import MemVR, Retracing, retraced, uncertainty
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.models.interventions import Site, Where
from tests.decoding.interventions.dev_split import dev, tiny

METHOD = MemVR(ratio=0.3, threshold=0.2)


def test_the_mix_is_that_of_the_released_mlp() -> None:
    x, output, features = (
        torch.randn(*size, generator=torch.Generator().manual_seed(1)) for size in ((1, 8), (1, 8), (5, 8))
    )
    w1, w2 = 0.37 * features, 2.1 * features.T  # the release's scales, which cancel
    adapter = torch.matmul(torch.matmul(x, w1.T), w2.T)
    norm_adapter = (torch.mean(torch.abs(output)) / torch.mean(torch.abs(adapter))) * adapter
    assert torch.allclose(retraced(x, output, features, 0.12), output * 0.88 + norm_adapter * 0.12, atol=1e-5)
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(2))
    top, _ = torch.topk(logits, 10)
    probabilities = top.softmax(-1)
    released = torch.sum((-probabilities * probabilities.log()) / torch.log(torch.tensor(10.0)))
    assert float(uncertainty(logits)[0]) == pytest.approx(float(released), abs=1e-6)


def by_hand(features: torch.Tensor, ids: list[list[int]], start: Any) -> tuple[torch.Tensor, list[int]]:
    """Logits after steps of one row, with hooks that follow the release's loop over layers; layers that fired."""
    model = tiny().engine.runner.model
    layers, norm = model.model.text_model.layers, model.model.text_model.norm
    fired: list[int] = []
    state: dict[str, Any] = {}

    def after_layer(number: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            hidden = (output[0] if isinstance(output, tuple) else output)[:, -1]
            entropy = uncertainty(model.lm_head(norm(hidden)))[0]
            state["sign"] = False
            if entropy > METHOD.threshold and not state.get("event") and number < len(layers) - 1:
                state["sign"] = state["event"] = True
                fired.append(number)

        return hook

    def mlp(module: Any, args: Any, output: Any) -> Any:
        if not state.get("sign"):
            return None
        new = output.clone()
        x, own = args[0][:, -1], output[:, -1]
        adapter = x @ features.T @ features
        new[:, -1] = own * 0.7 + 0.3 * (own.abs().mean() / adapter.abs().mean()) * adapter
        return new

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        state.clear()

    handles = [layers[0].register_forward_pre_hook(begin, with_kwargs=True)]
    for number, layer in enumerate(layers):
        handles += [layer.register_forward_hook(after_layer(number)), layer.mlp.register_forward_hook(mlp)]
    try:
        rows = tiny().open([start])
        for step in ids:
            rows.advance(torch.tensor(step))
    finally:
        for handle in handles:
            handle.remove()
    return rows.logits, fired


def test_logits_are_those_of_the_released_loop_over_layers() -> None:
    prompts = [one.without_demonstrations for one in dev(3, 5)]
    steered = METHOD.steered(prompts, tiny())
    rows = tiny().open(steered)
    steps = [[[4], [9], [14]], [[5], [6], [7]]]
    for step in steps:
        rows.advance(torch.tensor(step).flatten())
    plain = tiny().open(prompts)
    for step in steps:
        plain.advance(torch.tensor(step).flatten())
    fired: list[int] = []
    for i, prompt in enumerate(prompts):
        tiny().engine.prefiller.cached_prefixes.clear()
        features = tiny().observe([prompt], [Site("input", 0)], Where("query_images"))[0][Site("input", 0)]
        slow, own = by_hand(features, [step[i] for step in steps], prompt)
        assert torch.allclose(rows.logits[i], slow[0], atol=1e-4)
        fired += own
    assert fired
    assert not torch.allclose(rows.logits, plain.logits, atol=1e-3)


def test_a_sure_model_is_left_alone_and_only_the_first_uncertain_layer_counts() -> None:
    prompts = [dev(1, 5)[0].without_demonstrations]
    calm = replace(METHOD, threshold=1.01)
    assert torch.equal(tiny().open(calm.steered(prompts, tiny())).logits, tiny().open(prompts).logits)
    (edit,) = METHOD.steered(prompts, tiny())[0].interventions
    assert isinstance(edit, Retracing)
    flat = replace(edit, logits=lambda states: torch.zeros(len(states), 20), threshold=0.9)
    x = torch.randn(2, 160, generator=torch.Generator().manual_seed(0))
    changed = {site: not torch.equal(flat.edit(site, x, [0, 0]), x) for site in flat.sites}
    assert [site for site, own in changed.items() if own] == [Site("mlp", 1)]


def test_the_control_has_other_features_of_equal_norm_and_images_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = [dev(1, 5)[0].without_demonstrations]
    (control,) = METHOD.controls()
    (own,), (other,) = (method.steered(prompts, tiny())[0].interventions for method in (METHOD, control))
    assert torch.allclose(own.features.norm(dim=-1), other.features.norm(dim=-1), atol=1e-4)  # type: ignore[attr-defined]
    assert own.digest != other.digest
    texts = [prompts[0].without_images()]
    assert METHOD.steered(texts, tiny())[0].interventions == ()
    assert METHOD.model_problem(tiny()) is None
    monkeypatch.setattr(HF, "image_token_problem", "this model reads text only.")
    assert METHOD.model_problem(tiny()) == "this model reads text only."
    with pytest.raises(ModelError, match="has no mlp_input of layer 4: its 4 layers are 0 to 3"):
        replace(METHOD, last_layer=-1).check(tiny())
