"""VTI: the release's arithmetic, a slow version with hooks of its own, its controls, and its messages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional

from decoding.interventions.fit_data import FitData
from decoding.interventions.vti import VTI, answer_differences, direction, image_differences, image_direction
from icl.edits import MaskedPatches
from icl.errors import ConfigError, DataError, ModelError
from icl.images import Image
from icl.models.interventions import Where
from tests.decoding.interventions.dev_split import dev, tiny, write

FAST = VTI(trials=3, grid=4)


@pytest.fixture(scope="module")
def data() -> FitData:
    return FitData(tiny(), dev(5, 1, shots=2), dev(3, 2, shots=2), max_new_tokens=2)


@pytest.fixture(scope="module")
def fitted(data: FitData, tmp_path_factory: pytest.TempPathFactory) -> VTI:
    method = write(tmp_path_factory.mktemp("vti") / "vti.safetensors", FAST, FAST.fit(data))
    assert isinstance(method, VTI)
    return method


def released_direction(fit_data: torch.Tensor) -> torch.Tensor:
    """`PCA` and what follows it in vti_utils/utils.py, for [tokens, n, D]: [tokens, D]."""
    mean = fit_data.mean(1, keepdim=True)
    u, _, v = torch.linalg.svd(fit_data - mean, full_matrices=False)
    rows = u.abs().argmax(1)
    v = v * torch.sign(torch.gather(u, 1, rows.unsqueeze(-1))).view(len(v), -1, 1)
    return (v[:, :1].sum(1, keepdim=True) + mean).mean(1)


def test_directions_are_those_of_the_released_code() -> None:
    masked, clean = torch.randn(2, 6, 3, 5, 8, generator=torch.Generator().manual_seed(0))  # n, layers, tokens, d
    each = [(a.reshape(5, -1) - b.reshape(5, -1)) for a, b in zip(masked, clean, strict=True)]
    expected = released_direction(torch.stack(each, 1)).view(3, 5, 8)
    assert torch.allclose(image_direction(masked - clean, "released"), expected, atol=1e-5)
    text = (masked - clean)[:, :, 0]
    own = released_direction(text.reshape(1, 6, -1)).view(3, 8)
    assert torch.allclose(direction(text), own, atol=1e-5)
    assert torch.allclose(image_direction(masked - clean)[:, 2], direction((masked - clean)[:, :, 2]))
    assert not torch.allclose(image_direction(masked - clean), expected, atol=1e-2)


def test_masked_patches_have_the_mean_color_and_others_stay() -> None:
    pixels = torch.randint(0, 255, (48, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.from_pil(PIL.Image.fromarray(pixels.numpy()))
    edited = image.edit(MaskedPatches(6, 0.5))
    by_patch = (torch.tensor(np.asarray(edited.open())).view(6, 8, 6, 8, 3) == pixels.view(6, 8, 6, 8, 3)).all(-1)
    stays = by_patch.permute(0, 2, 1, 3).reshape(36, -1).all(-1)
    assert int(stays.sum()) == 18
    mean = pixels.float().mean((0, 1)).round().to(torch.uint8)
    after = torch.tensor(np.asarray(edited.open())).view(6, 8, 6, 8, 3).permute(0, 2, 1, 3, 4).reshape(36, 64, 3)
    assert bool((after[~stays] == mean).all())
    assert image.edit(MaskedPatches(6, 0.5, stream=1)).open().tobytes() != edited.open().tobytes()


def test_answers_are_those_of_hooks_on_the_models_own_modules(fitted: VTI, data: FitData) -> None:
    prompts = [one.without_demonstrations for one in data.choice]
    own = tiny().open(fitted.steered(prompts, tiny()))
    own.extend([[7], [8], [9]])
    model, handles = tiny().engine.runner.model, []

    def turn(unit: torch.Tensor) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:  # VTILayer.forward of the release
            norm = output.norm(dim=-1).unsqueeze(-1)
            y = 0.9 * functional.normalize(unit, dim=-1)
            return functional.normalize(functional.normalize(output, dim=-1) + 0.1 * y, dim=-1) * norm

        return hook

    encoder = tiny().engine.prompt_encoder.encoder
    assert encoder is not None
    encoder.cache.clear()
    base = tiny().open(prompts)
    encoder.cache.clear()
    tensors = fitted.file.tensors
    for layer, unit in zip(model.model.vision_model.encoder.layers, tensors["image"], strict=True):
        handles.append(layer.mlp.register_forward_hook(turn(unit)))
    for layer, unit in zip(model.model.text_model.layers, tensors["text"], strict=True):
        handles.append(layer.mlp.register_forward_hook(turn(unit)))
    try:
        slow = tiny().open(prompts)
        slow.extend([[7], [8], [9]])
    finally:
        for handle in handles:
            handle.remove()
        encoder.cache.clear()
    assert torch.allclose(own.logits, slow.logits, atol=1e-4)
    base.extend([[7], [8], [9]])
    assert float((own.logits - base.logits).abs().max()) > 0.05


def test_differences_are_those_of_states_that_hooks_read(data: FitData) -> None:
    own = image_differences(data, FAST)
    assert own.shape == (5, 3, 16, 160)
    prompt, states = data.sources[1].without_demonstrations, []
    layer = tiny().engine.runner.model.model.vision_model.encoder.layers[2]
    handle = layer.register_forward_hook(lambda module, args, output: states.append(output))
    encoder = tiny().engine.prompt_encoder.encoder
    assert encoder is not None
    for one in (prompt, *(prompt.edit(MaskedPatches(4, 0.99, draw), "query") for draw in range(3))):
        encoder.cache.clear()
        tiny().open([one])
    handle.remove()
    clean, *masked = (one[0] if isinstance(one, tuple) else one for one in states)
    assert torch.allclose(own[1, 2], (torch.stack(masked).mean(0) - clean)[0], atol=1e-4)
    mean = image_differences(data, replace(FAST, tokens="mean"))
    assert torch.allclose(mean[:, :, 0], own.mean(2), atol=1e-6)


def test_the_text_differences_are_of_the_right_answer_and_the_next_wrong_one(data: FitData) -> None:
    own, layer, read = answer_differences(data), tiny().engine.runner.model.model.text_model.layers[1], []
    assert own.shape == (5, 4, 160)
    for i, one in enumerate(data.sources):
        following = (*data.sources[i + 1 :], *data.sources[:i])
        wrong = next(other.answers[0] for other in following if other.answers[0] not in one.answers)
        prompt, ends = tiny().before_answer(one.without_demonstrations), list[torch.Tensor]()
        for text in (one.answers[0], wrong):
            (tokens,) = tiny().option_ids(prompt, [text])
            rows = tiny().open([prompt])
            handle = layer.register_forward_hook(lambda module, args, output: read.append(output))
            rows.extend([tokens])
            handle.remove()
            state = read[-1][0] if isinstance(read[-1], tuple) else read[-1]
            ends.append(state[0, -1])
        assert torch.allclose(own[i, 1], ends[0] - ends[1], atol=1e-3)


def test_controls_have_equal_norms_or_exchanged_sides(fitted: VTI, data: FitData) -> None:
    random, shuffled = fitted.controls()
    for edit, other in zip(fitted.interventions(), random.interventions(), strict=True):  # type: ignore[attr-defined]
        for site, own in edit.directions.items():
            assert torch.allclose(other.directions[site].norm(dim=-1), own.norm(dim=-1), atol=1e-4)
            assert not torch.allclose(other.directions[site], own, atol=1e-3)
    means = [fitted.file.tensors[name].norm() for name in ("image", "image.shuffled")]
    assert means[1] < means[0]  # half of the differences point the other way
    assert [edit.digest for edit in shuffled.interventions()] != [edit.digest for edit in fitted.interventions()]  # type: ignore[attr-defined]
    off = replace(fitted, alpha_image=0.0)
    assert [edit.where.span for edit in off.interventions()] == ["all"]
    assert off.acts_on_output
    assert not fitted.acts_on_output
    assert replace(off, alpha_text=0.0).neutral


def test_what_cannot_be_fitted_or_read_is_one_sentence(fitted: VTI, data: FitData, tmp_path: Path) -> None:
    same = FitData(tiny(), tuple(replace(one, answers=("1",)) for one in data.sources), data.choice)
    with pytest.raises(DataError, match=r"no other source has a wrong answer for it\. Use sources that differ\."):
        answer_differences(same)
    with pytest.raises(ConfigError, match="vti has nothing to fit: alpha_image and alpha_text"):
        replace(FAST, alpha_image=0.0, alpha_text=0.0).fit(data)
    texts = [replace(one, prompt=one.prompt.without_images()) for one in data.sources]
    with pytest.raises(DataError, match=r"query '1/operators-00000': .*'query.image\[0\]' names none of the prompt"):
        image_differences(FitData(tiny(), tuple(texts), data.choice), FAST)
    text = replace(FAST, alpha_image=0.0)
    only_text = write(tmp_path / "text.safetensors", text, text.fit(data))
    assert "vectors 'image'" in str(only_text.problem())
    with pytest.raises(ConfigError, match=r"has no vectors 'image'\. Fit it again\."):
        only_text.interventions()
    (edit, _) = fitted.interventions()
    site = edit.sites[0]
    with pytest.raises(
        ModelError, match=r"an image has 3 tokens, and the directions were fitted for 16\. Fit one direction"
    ):
        edit.edit(site, torch.zeros(6, 160), [0, 0, 0, 1, 1, 1])
    assert Where("images") == edit.where
