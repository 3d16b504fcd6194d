"""Each distinct image is encoded once, and cached features give the logits of the processor's own inputs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image as PILImage
from tiny_models import conversations, prompts

from icl.edits import Blank, DiffusionNoise
from icl.errors import ModelError
from icl.images import Image
from icl.lru_cache_bytes import LRUByteCache
from icl.models.hf.image_features import tensors
from icl.models.hf.image_processing import images_per_call
from icl.models.hf.model import HF
from icl.models.hf.prompt_encoding import PromptEncoder
from icl.types import Prompt

ModelOf = Callable[[str], HF]
every = pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)


def plain_logits(hf: HF, prompt: object) -> torch.Tensor:
    """Through the processor on the whole prompt, no cache."""
    plain = PromptEncoder(hf.renderer, hf.pixels, hf.engine.runner, None)
    return hf.engine.runner.prefill(plain.read([prompt])).logits


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@every
def test_cached_images_give_the_logits_of_the_processors_own_inputs(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    assert hf.notes == ()
    for prompt in prompts():
        cached = hf.engine.prompt_encoder.read([prompt])
        assert cached[0].plain is None
        assert gap(hf.engine.runner.prefill(cached).logits, plain_logits(hf, prompt)) < 2e-5


@every
def test_rendered_ids_are_the_processors_own(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    for prompt in prompts():
        own = hf.checkpoint.processor.apply_chat_template(
            conversations([prompt])[0], add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0]
        (read,) = hf.engine.prompt_encoder.read([prompt])
        assert read.ids.tolist() == own
        assert hf.count_tokens(prompt) == len(own)


@every
def test_an_image_in_many_prompts_is_encoded_once(name: str, folder_of: Callable[[str], Path]) -> None:
    hf = HF(path=str(folder_of(name)))
    hf.load()
    hf.open(prompts())
    hf.open([tiny_models.prompt([1, 2]), tiny_models.prompt([7, 5, 3])])
    count = hf.counters()
    assert count["num_images"] == 15
    assert count["images_encoded"] == 7


@every
def test_repeatable_features_do_not_depend_on_the_images_encoded_with_them(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    encoder = hf.engine.prompt_encoder.encoder
    assert encoder is not None
    images = tiny_models.prompt(list(range(20, 29))).images
    encoder.is_repeatable, before = True, hf.counters()["images_encoded"]
    try:
        passes = [[images], [images[::-1]], [images[3:5]], *([[image]] for image in images)]
        features = []
        for prompts_of_pass in passes:
            encoder.cache.clear()
            features += [one for row in encoder.encode(prompts_of_pass) for one in row]
    finally:
        encoder.is_repeatable = False
        encoder.cache.clear()
    first = {one.key: list(tensors(one.features)) for one in features}
    assert all(
        torch.equal(a, b) for one in features for a, b in zip(tensors(one.features), first[one.key], strict=True)
    )
    assert hf.counters()["images_encoded"] - before == 9 + 9 + 2 + 9


@pytest.mark.parametrize("is_same", [True, False])
def test_a_pass_of_fixed_size_has_one_image_if_its_places_differ(
    is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf, sizes = HF(path="tiny"), list[int]()
    encoder = hf.engine.prompt_encoder.encoder
    assert encoder is not None
    encoder.is_repeatable = True
    encode = encoder._features
    monkeypatch.setattr(encoder, "_features", lambda inputs, *more: sizes.append(len(inputs)) or encode(inputs, *more))
    monkeypatch.setattr(encoder, "_is_same_at_each_place", lambda inputs, size: is_same)
    encoder.encode([tiny_models.prompt(list(range(20, 23))).images])
    assert sizes == ([16] if is_same else [1, 1, 1])


def test_an_image_alone_and_among_others_has_two_entries_if_the_processor_distinguishes_them(model_of: ModelOf) -> None:
    cares = {name: model_of(name).pixels.depends_on_others for name in tiny_models.ARCHITECTURES}
    assert [name for name, does in cares.items() if does] == ["llava_onevision"]
    hf = model_of("llava_onevision")
    alone, among = tiny_models.prompt([40]), tiny_models.prompt([40, 41])
    for prompt in (alone, among):
        assert gap(hf.open([prompt]).logits, plain_logits(hf, prompt)) < 2e-5
    before = hf.counters()["images_encoded"]
    hf.open([alone, among])
    assert hf.counters()["images_encoded"] == before


@every
def test_noise_on_processed_pixels_is_the_same_with_and_without_the_cache(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    clean = tiny_models.prompt([4])
    noised = clean.edit(DiffusionNoise(500))
    ((pixels, _),) = hf.pixels.pixels([(clean.images[0], False)])
    edited = noised.images[0].pixel_value_edits[0].apply_to_pixel_values(pixels["pixel_values"])
    own = dict(
        hf.checkpoint.processor.apply_chat_template(
            conversations([clean])[0], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )
    want = hf.engine.runner.model(**own | {"pixel_values": edited}).logits[:, -1]
    got = hf.open([noised]).logits
    assert gap(got, want) < 2e-5
    assert gap(plain_logits(hf, noised), want) < 2e-5
    assert gap(got, hf.open([clean]).logits) > 1e-3
    assert torch.equal(got, hf.open([noised]).logits)


@every
def test_images_processed_together_are_as_if_alone(name: str, model_of: ModelOf) -> None:
    pixels = model_of(name).pixels
    pixels.cache.clear()
    images = [tiny_models.image(200 + i, (56, 84)) for i in range(4)]
    together = pixels.pixels([(image, False) for image in images])
    for image, (inputs, text) in zip(images, together, strict=True):
        alone, alone_text = pixels.process(image.open(), 1)
        assert text == alone_text
        assert torch.equal(inputs["pixel_values"], alone["pixel_values"])


def test_an_image_that_the_processor_does_not_take_is_an_error_with_its_origin_and_size(model_of: ModelOf) -> None:
    hf, plain = model_of("qwen2_5_vl"), tiny_models.prompt([1])
    wide = Image.from_pil(PILImage.new("RGB", (3000, 5)), "wide.png")
    own = Prompt((tiny_models.turn("user", wide, "Which?"),))
    sentence = r"^image wide\.png: the image processor does not take 3000 x 5 pixels: absolute aspect ratio must be"
    with pytest.raises(ModelError, match=sentence):
        hf.count_tokens(own)
    with pytest.raises(ModelError, match=sentence):
        hf.pixels.pixels([(wide, False)])
    assert hf.count_tokens(plain) > 0


def test_small_images_are_processed_in_larger_batches(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = model_of("llava").pixels
    pixels.cache.clear()
    processor, sizes = pixels.processor, []

    def counted(**inputs: Any) -> Any:
        sizes.append(len(inputs["images"]))
        return processor(**inputs)

    monkeypatch.setattr(pixels, "processor", counted)
    pixels.pixels([(tiny_models.image(300 + i, (40, 40)), False) for i in range(20)])
    assert sizes == [20]
    assert [images_per_call(side, side) for side in (64, 160, 224, 4000)] == [64, 31, 16, 16]


@pytest.mark.parametrize("name", ["idefics3", "qwen2_5_vl"])
def test_edits_reach_the_images_they_are_on_and_no_other(name: str, model_of: ModelOf) -> None:
    hf = model_of(name)
    clean = tiny_models.prompt([1, 2, 3])
    query = clean.edit(DiffusionNoise(500), where="query")
    assert [bool(image.pixel_value_edits) for image in query.images] == [False, False, True]
    read, noised = hf.engine.prompt_encoder.read([clean, query])
    assert [a is b for a, b in zip(read.images, noised.images, strict=True)] == [True, True, False]
    assert gap(hf.open([query]).logits, plain_logits(hf, query)) < 2e-5
    blank = clean.edit(Blank())
    assert gap(hf.open([blank]).logits, hf.open([clean]).logits) > 1e-3
    assert gap(hf.open([blank]).logits, plain_logits(hf, blank)) < 2e-5


def test_a_small_cache_drops_entries_and_changes_no_answer(folder_of: Callable[[str], Path], model_of: ModelOf) -> None:
    small = HF(path=str(folder_of("llava")), image_cache_mb=0)
    small.load()
    model_of(
        "llava"
    ).engine.prefiller.cached_prefixes.clear()  # of other tests: on a beginning, logits are the same up to rounding
    want = model_of("llava").open(prompts()).logits
    for _ in range(2):
        assert torch.equal(small.open(prompts()).logits, want)
    assert small.counters()["images_encoded"] == 14
    assert small.engine.prompt_encoder.encoder.cache.used == 0


def test_a_byte_cache_keeps_the_last_used_values_within_its_limit() -> None:
    cache = LRUByteCache[str, str](6, len)
    for word in ("aa", "bb", "cc"):
        cache.put(word, word)
    assert cache.get("aa") == "aa"
    cache.put("dd", "dd")
    assert list(cache.items) == ["cc", "aa", "dd"]
    assert cache.put("long", "longer!") == "longer!"
    assert cache.get("long") is None
    assert cache.used == 6


def test_a_model_whose_images_depend_on_other_images_runs_without_the_cache(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that carry the number of images encoded together: what BLIP-2's queries or a packed tower could do."""
    import transformers

    kind = transformers.LlavaModel
    real = kind.get_image_features

    def by_company(self: torch.nn.Module, pixel_values: torch.Tensor, **more: object) -> object:
        output = real(self, pixel_values, **more)
        output.pooler_output = [part + len(pixel_values) for part in output.pooler_output]
        return output

    monkeypatch.setattr(kind, "get_image_features", by_company)
    hf = HF(path=str(folder_of("llava")))
    hf.load()
    (note,) = hf.notes
    assert "image cache is off" in note
    assert "logits differ" in note
    own = {
        i: dict(
            hf.checkpoint.processor.apply_chat_template(
                conversations([prompt])[0],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )
        for i, prompt in enumerate(prompts())
    }
    want = torch.cat([hf.engine.runner.model(**own[i]).logits[:, -1] for i in own])
    assert gap(hf.open(prompts()).logits, want) < 2e-5
    noised = prompts()[0].edit(DiffusionNoise(500), where="query")
    assert gap(hf.open([noised]).logits, want[:1]) > 1e-3


def test_a_template_that_takes_single_turns_alone_keeps_the_cache(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of("llava"), tmp_path / "single"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        "{% if messages | length > 1 %}{{ raise_exception('one turn, please') }}{% endif %}" + template
    )
    hf = HF(path=str(folder))
    hf.load()
    assert hf.notes == ()
    with pytest.raises(ModelError, match="one turn, please"):
        hf.open([tiny_models.prompt([1, 2])])


def test_noise_is_refused_if_the_pixels_of_an_image_cannot_be_identified(model_of: ModelOf) -> None:
    hf = model_of("llava_onevision")  # cuts tiles for an image alone, and none among others
    noised = tiny_models.prompt([1, 2]).edit(DiffusionNoise(500))
    with pytest.raises(ModelError, match="cannot be placed"):
        plain_logits(hf, noised)
