"""A checkpoint in no list works where its processor and class follow the conventions; else the broken one is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from safetensors.torch import save_file

from icl.errors import ModelError
from icl.models.hf import conventions
from icl.models.hf.language_model import kept
from icl.models.hf.model import HF

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
        told = json.loads((to / name).read_text())
        told |= {"processor_class": "Own", "auto_map": {"AutoProcessor": "own_processing.Own"}}
        (to / name).write_text(json.dumps(told))
    return HF(path=str(to), trust_remote_code=True)


def test_an_unknown_processor_that_follows_the_conventions_works(folder_of: FolderOf, tmp_path: Path) -> None:
    own = with_own_processor(folder_of("llava"), tmp_path / "own", "pass")
    assert type(own.checkpoint.processor).__name__ == "Own"
    asked = [prompt for prompt in tiny_models.prompts() if prompt.images]
    assert torch.allclose(own.open(asked).logits, HF(path=str(folder_of("llava"))).open(asked).logits, atol=1e-5)
    assert own.notes == ()


def test_one_that_does_not_tell_what_it_writes_works_without_the_image_cache(
    folder_of: FolderOf, tmp_path: Path
) -> None:
    body = (
        "def __call__(self, *args, **more):\n        made = super().__call__(*args, **more)\n"
        "        made.data.pop('text_replacement_offsets', None)\n        return made"
    )
    own, known = with_own_processor(folder_of("llava"), tmp_path / "own", body), HF(path=str(folder_of("llava")))
    asked = [prompt for prompt in tiny_models.prompts() if prompt.images]
    assert [own.count_tokens(prompt) for prompt in asked] == [known.count_tokens(prompt) for prompt in asked]
    assert torch.allclose(own.open(asked).logits, known.open(asked).logits, atol=1e-4)
    assert "the image cache is off" in own.notes[0]
    assert "Own does not tell what it writes for an image (text_replacement_offsets)" in own.notes[0]


OWN_CLASS = """
from transformers import LlavaConfig, LlavaForConditionalGeneration

class OwnConfig(LlavaConfig):
    model_type = "own_vlm"

class OwnForAnything(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


def test_a_class_and_a_type_of_model_that_nobody_knows_work(folder_of: FolderOf, tmp_path: Path) -> None:
    own = with_own_processor(folder_of("llava"), tmp_path / "own", "pass")
    (tmp_path / "own" / "own_modeling.py").write_text(OWN_CLASS)
    told = json.loads((tmp_path / "own" / "config.json").read_text())
    classes = {"AutoConfig": "own_modeling.OwnConfig", "AutoModelForImageTextToText": "own_modeling.OwnForAnything"}
    told |= {"model_type": "own_vlm", "architectures": ["OwnForAnything"], "auto_map": classes}
    (tmp_path / "own" / "config.json").write_text(json.dumps(told))
    known = HF(path=str(folder_of("llava")))
    asked = [prompt for prompt in tiny_models.prompts() if prompt.images]
    wanted = known.open(asked).logits
    weights = known.engine.runner.model.state_dict()  # by the names of the class: an unknown type has no older ones
    save_file({name: weight.clone() for name, weight in weights.items()}, tmp_path / "own" / "model.safetensors")
    assert torch.allclose(own.open(asked).logits, wanted, atol=1e-5)
    assert type(own.engine.runner.model).__name__ == "OwnForAnything"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "image_token = property(lambda self: None if 'tokenizer' in vars(self) else '<image>', lambda *_: None)",
            r"\(Own\) names no image placeholder",
        ),
        ("image_token_ids = []", r"\(Own\) does not say which tokens stand for an image \(image_token_id"),
        (
            "def replace_image_token(self, *args, **more):\n        return self.image_token * 3",
            r"cannot read an image: what its processor writes does not go through LlavaForConditionalGeneration .+ "
            "writes as many image tokens as the vision tower gives features",
        ),
    ],
    ids=["no placeholder", "no ids", "too few tokens"],
)
def test_a_broken_processor_is_told_by_the_convention_that_it_breaks(
    body: str, told: str, folder_of: FolderOf, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told):
        with_own_processor(folder_of("llava"), tmp_path / "own", body).load()


class Encoder(torch.nn.Module):
    config = SimpleNamespace(is_encoder_decoder=True)


class Old(torch.nn.Module):
    config = SimpleNamespace(is_encoder_decoder=False)

    def forward(self, input_ids: object, attention_mask: object, past_key_values: object = None) -> None: ...


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Encoder, r"owner/name \(Encoder\) reads its prompt with an encoder"),
        (Old, r"the forward of Old takes no position_ids and no cache\."),
    ],
)
def test_a_class_that_sessions_cannot_call_is_told(kind: type[torch.nn.Module], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        conventions.check_class(kind(), "owner/name")


def test_a_class_that_gives_all_logits_is_cut_to_those_that_were_asked_for() -> None:
    logits = torch.arange(2 * 5 * 3).view(2, 5, 3).float()
    assert torch.equal(kept(logits, 1), logits[:, -1:])
    assert torch.equal(kept(logits, 0), logits)
    assert torch.equal(kept(logits, torch.tensor([1, 3])), logits[:, [1, 3]])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AttributeError("'Out' object has no attribute 'features'"), "stumbles over itself there, in transformers "),
        (AttributeError("'NoneType' object has no attribute 'shape'"), "writes as many image tokens as"),
        (ValueError("features and tokens do not match"), "writes as many image tokens as"),
    ],
)
def test_a_fault_of_the_class_is_not_laid_on_the_processor(error: Exception, told: str) -> None:
    assert told in str(conventions.mismatch(error, torch.nn.Identity(), "folder"))
