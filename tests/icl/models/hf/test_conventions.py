"""A checkpoint works if its processor and class follow the conventions. Otherwise the error names the broken one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import save_file

from icl.errors import ModelError
from icl.models.hf import conventions
from icl.models.hf.conventions import check_version, image_placeholder, takes_interleaved_images
from icl.models.hf.language_model import keep_columns
from icl.models.hf.model import HF
from tests.random_models.common import tokenizer

FolderOf = Callable[[str], Path]

OWN_PROCESSOR = """
from transformers import LlavaProcessor

class Own(LlavaProcessor):
    {body}
"""


def with_own_processor(folder: Path, to: Path, body: str) -> HF:
    """A copy of a checkpoint whose processor is a class of its own, brought along as code."""
    shutil.copytree(folder, to)
    (to / "own_processing.py").write_text(OWN_PROCESSOR.format(body=body))
    for name in ("processor_config.json", "tokenizer_config.json"):
        config = json.loads((to / name).read_text())
        config |= {"processor_class": "Own", "auto_map": {"AutoProcessor": "own_processing.Own"}}
        (to / name).write_text(json.dumps(config))
    return HF(path=str(to), trust_remote_code=True)


def test_an_unknown_processor_that_follows_the_conventions_works(folder_of: FolderOf, tmp_path: Path) -> None:
    own = with_own_processor(folder_of("llava"), tmp_path / "own", "pass")
    assert type(own.checkpoint.processor).__name__ == "Own"
    prompts = [prompt for prompt in tiny_models.prompts() if prompt.images]
    assert torch.allclose(own.open(prompts).logits, HF(path=str(folder_of("llava"))).open(prompts).logits, atol=1e-5)
    assert own.notes == ()


def test_a_processor_without_replacement_texts_works_without_the_image_cache(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    body = (
        "def __call__(self, *args, **more):\n        made = super().__call__(*args, **more)\n"
        "        made.data.pop('text_replacement_offsets', None)\n        return made"
    )
    own, reference = with_own_processor(folder_of("llava"), tmp_path / "own", body), HF(path=str(folder_of("llava")))
    prompts = [prompt for prompt in tiny_models.prompts() if prompt.images]
    assert [own.count_tokens(prompt) for prompt in prompts] == [reference.count_tokens(prompt) for prompt in prompts]
    assert torch.allclose(own.open(prompts).logits, reference.open(prompts).logits, atol=1e-4)
    assert "the image cache is off" in own.notes[0]
    assert "Own does not report what it writes for an image (text_replacement_offsets)" in own.notes[0]


OWN_CLASS = """
from transformers import LlavaConfig, LlavaForConditionalGeneration

class OwnConfig(LlavaConfig):
    model_type = "own_vlm"

class OwnForAnything(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


def test_an_unknown_class_and_model_type_work(folder_of: FolderOf, tmp_path: Path) -> None:
    own = with_own_processor(folder_of("llava"), tmp_path / "own", "pass")
    (tmp_path / "own" / "own_modeling.py").write_text(OWN_CLASS)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    classes = {"AutoConfig": "own_modeling.OwnConfig", "AutoModelForImageTextToText": "own_modeling.OwnForAnything"}
    config |= {"model_type": "own_vlm", "architectures": ["OwnForAnything"], "auto_map": classes}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    reference = HF(path=str(folder_of("llava")))
    prompts = [prompt for prompt in tiny_models.prompts() if prompt.images]
    expected = reference.open(prompts).logits
    weights = reference.engine.runner.model.state_dict()  # by the names of the class: an unknown type has no older ones
    save_file({name: weight.clone() for name, weight in weights.items()}, tmp_path / "own" / "model.safetensors")
    assert torch.allclose(own.open(prompts).logits, expected, atol=1e-5)
    assert type(own.engine.runner.model).__name__ == "OwnForAnything"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "image_token = property(lambda self: None if 'tokenizer' in vars(self) else '<image>', lambda *_: None)",
            r"\(Own\) defines no image placeholder",
        ),
        (
            "image_token_ids = []\n    image_token = '<pic>'\n    image_token_id = None\n"
            "    __setattr__ = lambda self, name, value: name in ('image_token', 'image_token_id')"
            " or object.__setattr__(self, name, value)",
            r"\(Own\) does not define which tokens represent an image \(image_token_id",
        ),
        (
            "def replace_image_token(self, *args, **more):\n        return self.image_token * 3",
            r"cannot read an image: what its processor writes does not go through LlavaForConditionalGeneration .+ "
            "writes as many image tokens as the vision tower gives features",
        ),
    ],
    ids=["no placeholder", "no ids", "too few tokens"],
)
def test_the_error_names_the_convention_that_a_processor_breaks(
    body: str, message: str, folder_of: FolderOf, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        with_own_processor(folder_of("llava"), tmp_path / "own", body).load()


class Encoder(torch.nn.Module):
    config = SimpleNamespace(is_encoder_decoder=True)


class Old(torch.nn.Module):
    config = SimpleNamespace(is_encoder_decoder=False)

    def forward(self, input_ids: object, attention_mask: object, past_key_values: object = None) -> None: ...


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Encoder, r"owner/name \(Encoder\) is an encoder-decoder model"),
        (Old, r"the forward of Old has no argument position_ids and no cache\."),
    ],
)
def test_a_class_that_sessions_cannot_call_is_reported(kind: type[torch.nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        conventions.check_class(kind(), "owner/name")


def test_logits_of_a_class_that_returns_all_are_cut_to_the_requested_columns() -> None:
    logits = torch.arange(2 * 5 * 3).view(2, 5, 3).float()
    assert torch.equal(keep_columns(logits, 1), logits[:, -1:])
    assert torch.equal(keep_columns(logits, 0), logits)
    assert torch.equal(keep_columns(logits, torch.tensor([1, 3])), logits[:, [1, 3]])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AttributeError("'Out' object has no attribute 'features'"), "This is a bug of the class in transformers "),
        (AttributeError("'NoneType' object has no attribute 'shape'"), "writes as many image tokens as"),
        (ValueError("features and tokens do not match"), "writes as many image tokens as"),
    ],
)
def test_an_error_of_the_class_is_not_attributed_to_the_processor(error: Exception, message: str) -> None:
    assert message in str(conventions.mismatch(error, torch.nn.Identity(), "folder"))


@pytest.mark.parametrize("installed", ["5.19.0", "5.9", "5.24.0.dev0"])
def test_an_older_transformers_is_refused_with_an_alternative(installed: str) -> None:
    with pytest.raises(ModelError, match=r"needs transformers 5\.24 or newer.*model: vllm"):
        check_version(installed)


@pytest.mark.parametrize("installed", ["5.24.0", "5.30.1", None])
def test_supported_releases_pass(installed: str | None) -> None:
    check_version(installed)


WORDS = tokenizer({"image_token": "<image>"}, ("<patch>",))
PLAIN = tokenizer({}, ("<image>", "<patch>"))
IMAGE, PATCH = WORDS.convert_tokens_to_ids(["<image>", "<patch>"])


@pytest.mark.parametrize(
    ("processor", "config", "expected"),
    [
        ({"image_token": "<image>", "image_token_ids": [IMAGE, None]}, {}, ("<image>", (IMAGE,))),
        ({"image_token": "<image>"}, {}, ("<image>", (IMAGE,))),  # as in Janus
        (
            {"image_token": "<image>", "image_token_ids": [IMAGE]},
            {"image_token_id": PATCH},
            ("<image>", (IMAGE, PATCH)),
        ),
        ({"image_token": "<patch>", "image_token_ids": [None]}, {"image_token_index": PATCH}, ("<patch>", (PATCH,))),
        ({"image_token_id": IMAGE}, {}, ("<image>", (IMAGE,))),  # as in Idefics
        ({}, {"image_token_index": PATCH}, ("<image>", (PATCH,))),
        ({"tokenizer": PLAIN}, {"image_token_id": PLAIN.convert_tokens_to_ids("<patch>")}, ("<patch>", None)),
        ({"tokenizer": PLAIN}, {}, ("", ())),
        ({"image_token": None}, {}, ("", ())),
        ({"image_token": "<no token>"}, {}, ("<no token>", ())),
    ],
)
def test_the_placeholder_comes_from_processor_tokenizer_or_config(
    processor: dict[str, Any], config: dict[str, Any], expected: tuple[str, Any]
) -> None:
    made = image_placeholder(SimpleNamespace(**{"tokenizer": WORDS} | processor), SimpleNamespace(**config))
    token, ids = expected
    assert (made.token, made.ids) == (token, tuple(config.values()) if ids is None else ids)


def test_patches_are_the_tokens_of_the_config_without_markers() -> None:
    """The processors of Cohere2 Vision and Pixtral also list the markers at the ends of rows and images."""

    def patches(ids: list[int], config: dict[str, int], own: int | None = None) -> tuple[int, ...]:
        processor = SimpleNamespace(tokenizer=WORDS, image_token="<image>", image_token_ids=ids, image_token_id=own)
        return image_placeholder(processor, SimpleNamespace(**config)).patches

    assert patches([IMAGE, PATCH], {"image_token_id": IMAGE}) == (IMAGE,)
    assert patches([IMAGE], {"image_token_index": PATCH}) == (PATCH,)
    assert patches([PATCH, IMAGE], {}, own=IMAGE) == (IMAGE,)
    assert patches([IMAGE], {}) == (IMAGE,)


def test_a_processor_that_names_no_placeholder_takes_images_among_the_texts() -> None:
    assert takes_interleaved_images(SimpleNamespace(tokenizer=WORDS))
    assert not takes_interleaved_images(SimpleNamespace(image_token=None))
