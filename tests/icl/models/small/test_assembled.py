"""The assembled small model: the packages' tensors, and the tokens of plain transformers. Without a network."""

import socket
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from icl.models.hf.model import HF
from icl.models.small import folder
from icl.models.small.folder import LEARNED, checkpoint_folder
from icl.types import Generation, Prompt
from tests.random_models.conversations import conversation

MISSING = [module for module in folder.MODULES if find_spec(module) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} are not installed: {folder.INSTALL}"),
    pytest.mark.skipif(not LEARNED.exists(), reason=f"{LEARNED.name} is not in this checkout"),
]
NEW_TOKENS = 6


def refuse(*args: object) -> None:
    raise AssertionError("no network is needed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """transformers parses the GGUF file for the config, the weights and the tokenizer, here once for all."""
    import gguf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", lru_cache(gguf.GGUFReader))
        patch.setenv("ICL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(socket.socket, "connect", refuse)
        yield checkpoint_folder()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def expected_tokens(plain: Any, processor: Any, prompt: Prompt) -> list[int]:
    """Greedy tokens of `generate` on the processor's own inputs."""
    text = processor.apply_chat_template(conversation(prompt, with_pixels=False), add_generation_prompt=True)
    images = [image.open() for image in prompt.images] or None
    inputs = processor(text=[text], images=images, return_tensors="pt")
    with torch.inference_mode():
        ids = plain.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    stops = set(plain.generation_config.eos_token_id)
    return [token for token in ids.tolist() if token not in stops]


def test_the_vision_tower_has_the_features_of_the_package(plain: Any) -> None:
    from icl.models.small.efficientnet import load_network

    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tower = plain.model.vision_tower(pixels).last_hidden_state
        assert torch.equal(tower, load_network().extract_features(pixels))


def test_batched_tokens_are_those_of_plain_transformers(plain: Any, folder: Path) -> None:
    """For prompts with and without demonstrations and images."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    prompts = tiny_models.prompts()
    requests = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=NEW_TOKENS) for prompt in prompts]
    model = HF("small", device="cpu")
    answers = run_requests(model, requests)
    expected = [expected_tokens(plain, processor, prompt) for prompt in prompts]
    assert [list(one.tokens) for one in answers if isinstance(one, Generation)] == expected
    assert any(expected)
    assert model.notes == (), "images are encoded once, and prompts are read in batches"
