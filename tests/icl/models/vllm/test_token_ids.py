"""Token ids of the twins of published models: those of vLLM's processor equal those of the checkpoint's own.

No engine is started: vLLM's processor needs neither weights nor a cache.
"""

import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints

from icl.errors import ModelError
from lab.models.subjects import MODELS
from lab.models.token_ids import check_ids, input_builder
from tests.lab.models.test_models_page import shipped_words
from tests.random_models.twins.twin import save_twin

SAMPLE = ("qwen3_5", "minicpm_v_4_6")
"""A template that opens a reasoning block; images with numbers in the text. `ICL_MODELS=all` checks all."""
COMPARED = tuple(name for name in MODELS.names if shipped_words(name, ("ids",))["ids"] != "not run")
CHECKED = COMPARED if os.environ.get("ICL_MODELS") == "all" else SAMPLE
ROOT = Path(__file__).parents[4]
PYTHON = ROOT / ".venv" / "bin" / "python"
"""Of the environment of the backend `hf`, whose release of transformers has the classes of all twins."""


def written_twin(name: str, folder: Path) -> Path:
    """The twin, written in the other environment if this one lacks its class."""
    if name in SAMPLE:
        return save_twin(name, folder)
    if not PYTHON.is_file():
        pytest.skip(f"{PYTHON} is missing, and the transformers of vLLM may not have the classes of all twins")
    subprocess.run([PYTHON, "-m", "tests.random_models.twins", name, folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", CHECKED)
def test_the_shipped_page_says_whose_token_ids_are_those_of_the_backend_hf(name: str, tmp_path: Path) -> None:
    verdict = check_ids(written_twin(name, tmp_path / name))
    assert verdict.word == shipped_words(name, ("ids",))["ids"], verdict


def test_several_images_that_vllm_tiles_and_the_authors_do_not_are_refused(tmp_path: Path) -> None:
    """LLaVA-OneVision tiles a single image and shows one view of each of several. vLLM tiles each of several too."""
    builder, tiny = input_builder(save_twin("llava_onevision", tmp_path, own_template=True)), checkpoints.tiny_models()
    for images in ([], [1], [2]):
        prompt = tiny.prompt(images, "what?")
        assert tuple(builder.of(prompt)["prompt_token_ids"]) == builder.hf.ids(prompt)
    with pytest.raises(ModelError, match=r"vLLM's processor makes .* use the backend 'hf'"):
        builder.of(tiny.prompt([1, 2, 3], "what?"))
