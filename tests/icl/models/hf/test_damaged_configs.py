"""JSON files of a checkpoint that are damaged: the error names the file, whatever the readers of transformers raise."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from icl.errors import ModelError
from icl.models.hf.checkpoint import TINY
from icl.models.hf.model import HF

DEEP = "[" * 5000


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "checkpoint"))


def open_checkpoint(folder: Path) -> None:
    """What `icl plan` and `icl run` open before the first prompt."""
    hf = HF(path=str(folder))
    assert hf.digest
    assert hf.renderer
    hf.load()


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("text", ["[]", "7", "null", "", "{", DEEP, '{"a": ' * 5000, "\xff"])
def test_a_file_that_is_no_json_object_is_named(checkpoint: Path, name: str, text: str) -> None:
    (checkpoint / name).write_text(text, encoding="latin-1")
    with pytest.raises(
        ModelError, match=rf"^model\.path: the .*{name} is not a JSON object \(.*\)\. Copy the file again"
    ):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"text_config": 7}),
        ("config.json", {"vision_config": "x"}),
        ("config.json", {"tie_word_embeddings": []}),
        ("processor_config.json", {"image_processor": 7}),
        ("tokenizer_config.json", {"tokenizer_class": 7}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("generation_config.json", {"eos_token_id": {"a": 1}}),
    ],
)
def test_a_value_of_a_wrong_type_is_an_error_of_the_checkpoint(
    checkpoint: Path, name: str, values: dict[str, Any]
) -> None:
    file = checkpoint / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(ModelError, match=r"^model\.path: "):
        open_checkpoint(checkpoint)
