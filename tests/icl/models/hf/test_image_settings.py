"""Settings of the image processor (`model.image_processor`): what images become, and what a wrong one says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import conversations, image, prompt

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from icl.errors import ConfigError, ModelError
from icl.models.hf.memory import RequestSize
from icl.models.hf.model import HF
from icl.models.vllm.model import VLLM

FolderOf = Callable[[str], Path]
SIZE = (480, 640)
SMALL = {"max_pixels": 48 * 48}


@pytest.mark.parametrize(
    ("name", "settings", "fewer"),
    [
        ("qwen2_5_vl", SMALL, True),
        ("smolvlm", {"do_image_splitting": False}, True),
        ("internvl", {"max_patches": 1}, True),
        ("gemma3", {"do_pan_and_scan": True}, False),
    ],
)
def test_prompts_are_those_of_a_processor_that_was_loaded_with_the_settings(
    name: str, settings: dict[str, object], fewer: bool, folder_of: FolderOf
) -> None:
    from transformers import AutoProcessor

    path = str(folder_of(name))
    plain, own, few_shot = HF(path), HF(path, image_processor=dict(settings)), prompt([1, 2], size=SIZE)
    (conversation,) = conversations([few_shot])
    expected = AutoProcessor.from_pretrained(path, **settings).apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert list(own.token_ids(few_shot)) == expected["input_ids"][0].tolist()
    counts, default = own.tokens_of_image(image(1, SIZE)), plain.tokens_of_image(image(1, SIZE))
    assert counts is not None
    assert default == (counts[1], counts[1])
    assert (counts[0] < counts[1]) == fewer
    assert own.digest != plain.digest
    assert own.plan_notes == ()
    assert VLLM(path, image_processor=dict(settings)).arguments()["mm_processor_kwargs"] == settings
    assert VLLM(path, image_processor=dict(settings)).count_tokens(few_shot) == own.count_tokens(few_shot)


def test_pixels_and_the_estimate_of_memory_follow(folder_of: FolderOf) -> None:
    path, large_image = str(folder_of("qwen2_5_vl")), image(1, SIZE)
    pixels, needs = [], []
    for settings in ({}, SMALL):
        model = HF(path, image_processor=settings)
        ((inputs, _),) = model.pixels.pixels([(large_image, False)])
        pixels.append(inputs["pixel_values"])
        request = RequestSize(
            100, 4, 1, image_tokens=float((model.tokens_of_image(large_image) or (0,))[0]), largest_image=large_image
        )
        needs.append(model.memory_needs("float32", request).tower)
    assert len(pixels[1]) < len(pixels[0])
    assert needs[0] is not None
    assert needs[1] is not None
    assert needs[1].patches < needs[0].patches


def test_a_name_that_the_image_processor_does_not_have_is_an_error_with_its_names(folder_of: FolderOf) -> None:
    with pytest.raises(
        ModelError,
        match=r"^model\.image_processor: the image processor of .* does not read 'max_pixelz', so it would be ignor"
        r"ed\. Did you mean 'max_pixels'\? It takes .*max_pixels, merge_size, min_pixels.*size",
    ):
        _ = HF(str(folder_of("qwen2_5_vl")), image_processor={"max_pixelz": 1}).digest
    with pytest.raises(ModelError, match=r"does not read 'max_pixels'"):
        _ = VLLM(str(folder_of("gemma3")), image_processor=SMALL).digest
    with pytest.raises(ModelError, match=r"does not read 'trust_remote_code'"):  # nothing but settings is passed on
        _ = HF(str(folder_of("gemma3")), image_processor={"trust_remote_code": True}).digest
    with pytest.raises(ConfigError, match=r"model\.engine_args: mm_processor_kwargs is set by the backend or its own"):
        VLLM("tiny", image_processor={"size": 1}, engine_args={"mm_processor_kwargs": {}})


def test_a_value_that_no_image_can_be_processed_with_is_an_error_of_the_key(folder_of: FolderOf) -> None:
    with pytest.raises(
        ModelError, match=r"^model\.image_processor: the image processor of .* does not accept \{size: 'large'\}: "
    ):
        _ = HF(str(folder_of("gemma3")), image_processor={"size": "large"}).digest


@pytest.mark.parametrize(
    ("settings", "config_name"),
    [
        ({"patch_size": 14}, "patch_size"),
        ({"merge_size": 4}, "spatial_merge_size"),
        ({"temporal_patch_size": 1}, "temporal_patch_size"),
    ],
)
def test_a_size_that_the_weights_do_not_have_is_an_error_before_they_are_read(
    settings: dict[str, int], config_name: str, folder_of: FolderOf
) -> None:
    path, (name, value) = str(folder_of("qwen2_5_vl")), *settings.items()
    own = getattr(HF(path).checkpoint.config.vision_config, config_name)
    with pytest.raises(
        ModelError, match=rf"^model\.image_processor: {name}: {value} contradicts .* {own} \(.*\.{config_name} "
    ):
        _ = HF(path, image_processor=settings).digest
    assert HF(path, image_processor={name: own}).digest != HF(path).digest


@pytest.mark.parametrize("settings", [{"image_std": [0.0, 0.0, 0.0]}, {"rescale_factor": 1e38}])
def test_a_value_that_gives_no_finite_pixels_is_an_error(settings: dict[str, object], folder_of: FolderOf) -> None:
    with pytest.raises(ModelError, match=r"^model\.image_processor: with .* infinite or no numbers"):
        _ = HF(str(folder_of("qwen2_5_vl")), image_processor=settings).digest


def test_a_setting_without_effect_is_a_note_of_the_plan(folder_of: FolderOf) -> None:
    settings = {"crop_size": {"height": 3, "width": 3}, "image_mean": [0.1, 0.2, 0.3]}
    (note,) = HF(str(folder_of("gemma3")), image_processor=settings).plan_notes
    assert note.startswith("image_processor: crop_size: {'height': 3, 'width': 3} has no effect, images of 96 x 64, ")


def test_a_plan_says_how_many_tokens_an_image_has(folder_of: FolderOf) -> None:
    path = str(folder_of("qwen2_5_vl"))
    data = {
        "name": "x",
        "task": {"name": "matching", "queries": 2},
        "model": {"name": "hf", "path": path},
        "grid": {"model.image_processor": [{}, {"max_pixels": 28 * 28}]},
        "shots": 1,
    }
    plan = make_plan(expand(load_config(data)))
    lines = [line for line in format_plan(plan) if line.startswith("image tokens")]
    (usual, few), (own, default) = plan.image_tokens, (HF(path), HF(path, image_processor={"max_pixels": 28 * 28}))
    large_image = image(1, (64, 64))
    assert lines == [f"image tokens {usual}; {few}"]
    (tokens, _), (fewer, _) = (model.tokens_of_image(large_image) or (0, 0) for model in (own, default))
    assert usual.endswith(f": {tokens} for an image of 64 x 64 pixels")
    assert few.endswith(f"(max_pixels=784): {fewer} for an image of 64 x 64 pixels ({tokens} by default)")
    assert make_plan(expand(load_config(data))).image_tokens == plan.image_tokens  # from the stored counts
    assert tokens > fewer
