"""Embedding prefix: the released steps to a unit vector, the same prompt for texts and images, and the noise."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from decoding.interventions.base import FittedTensors
from decoding.interventions.embedding_prefix import EmbeddingPrefix, bridged, prefix
from decoding.interventions.virtual_tokens import EMBEDDING, SLOTS
from icl import build
from icl.errors import ConfigError, DataError
from icl.models.interventions import Where
from icl.types import Context, Prompt
from prompts.composers.turns import Chat
from tests.decoding.interventions.dev_split import tiny, write

METHOD = EmbeddingPrefix(count=3)


@lru_cache
def prompts(form: str, of: str = "captions") -> tuple[Prompt, ...]:
    task = build("task", {"name": "as_text", "form": form, "of": {"name": of, "queries": 4, "seed": 3}})
    return tuple(Chat().compose(Context(query.query, ())) for query in task.queries)


@lru_cache
def task(name: str = "captions") -> Any:
    return build("task", {"name": name, "queries": 4, "seed": 3})


def start(method: EmbeddingPrefix) -> FittedTensors:
    return method.start(tiny(), iter(prompts("text")), 0)


def test_vectors_take_the_steps_of_the_release() -> None:
    generator = torch.Generator().manual_seed(1)
    text, mean, noise = (torch.randn(*size, generator=generator) for size in ((3, 6), (6,), (3, 6)))
    released = text.clone()
    released -= mean
    released += noise * 0.3
    released = torch.nn.functional.normalize(released, dim=-1)
    assert torch.allclose(bridged(text, mean, 0.3 * noise), released)
    linear = torch.nn.Linear(6, 2 * 5)
    affine = torch.cat([linear.bias[None], linear.weight.T]).view(7, 2, 5)
    assert torch.allclose(prefix(affine, text[0]), linear(text[0]).view(2, 5), atol=1e-6)


def test_the_means_are_those_of_the_texts_and_of_the_images() -> None:
    method = replace(METHOD, center=task())
    means = start(method).parameters["means"]
    words = [one.text.split("image: ")[1].split(". ")[0] for one in prompts("text")]
    assert means["text"] == pytest.approx(method.embedder.embed_texts(words).mean(0).tolist(), abs=1e-6)
    images = method.embedder.embed_images([one.query for one in task().queries])
    assert means["image"] == pytest.approx(images.mean(0).tolist(), abs=1e-6)
    assert set(start(METHOD).parameters["means"]["image"]) == {0.0}, "without center the gap stays"


def test_a_text_and_an_image_are_the_same_prompt_behind_other_virtual_tokens(tmp_path: Path) -> None:
    fitted: Any = write(tmp_path / "v.safetensors", METHOD, start(replace(METHOD, center=task())))
    texts, images = (fitted.steered(prompts(form), tiny()) for form in ("text", "image"))
    for text, image in zip(texts, images, strict=True):
        assert text.turns == image.turns
        assert not image.images
        assert "image:" not in text.text
    [own] = tiny().observe(images[:1], [EMBEDDING], Where(SLOTS))
    vector = fitted.embedder.embed_images([task().queries[0].query])[0] - fitted.file.parameters["means"]["image"]
    expected = prefix(fitted.vectors, torch.nn.functional.normalize(torch.tensor(vector).float(), dim=0))
    assert torch.allclose(own[EMBEDDING], expected, atol=1e-5)
    first, other = (tiny().open([one]).logits for one in images[:2])
    assert not torch.allclose(first, other, atol=1e-3), "each image has its own tokens"
    batch = tiny().open(list(images)).logits
    assert torch.allclose(batch[:1], first, atol=1e-4)


def test_noise_is_new_in_each_step_and_the_same_when_a_step_is_repeated() -> None:
    trained = start(METHOD)

    def values(method: EmbeddingPrefix, own: FittedTensors) -> torch.Tensor:
        steered: Any = method.steered_by(own, prompts("text")[:2], tiny())
        return torch.stack([one.interventions[0].values for one in steered])

    later = replace(trained, tensors={"map": trained.tensors["map"] * (1 + 1e-6)})
    assert torch.equal(values(METHOD, trained), values(METHOD, trained))
    assert not torch.allclose(values(METHOD, trained), values(METHOD, later), atol=1e-2)
    calm = replace(METHOD, sd=0.0)
    assert torch.allclose(values(calm, trained), values(calm, later), atol=1e-4)
    tensor = trained.tensors["map"].requires_grad_()
    values(METHOD, replace(trained, tensors={"map": tensor})).sum().backward()
    assert tensor.grad is not None


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no regular expression"):
        EmbeddingPrefix(pattern="(")
    with pytest.raises(ConfigError, match="has no group for the text"):
        EmbeddingPrefix(pattern="image")
    bare = prompts("image")[0].without_images()
    with pytest.raises(DataError, match="finds no text for it in its question"):
        METHOD.start(tiny(), iter([bare]), 0)
    with pytest.raises(DataError, match="the task has no images"):
        start(replace(METHOD, center=build("task", {"name": "as_text", "of": {"name": "captions", "queries": 2}})))
    fitted: Any = write(tmp_path / "v.safetensors", METHOD, start(METHOD))
    with pytest.raises(ConfigError, match="Set `embedder` to that of the training"):
        replace(fitted, embedder=build("embedder", "pixels")).steered(prompts("image"), tiny())
