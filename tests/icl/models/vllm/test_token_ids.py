"""Token ids of the twins of published models: those of vLLM's processor equal those of the checkpoint's own.

No engine is started: vLLM's processor needs neither weights nor a cache.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints

from icl.errors import ModelError
from icl.models.vllm.engine_io import InputBuilder
from icl.models.vllm.model import VLLM
from tests.random_models.twins.twin import save_twin

TILED_ALONE = ("llava_onevision",)
"""Twins whose authors tile a single image and show one view of each of several. vLLM tiles each of several too."""
TWINS = ("qwen3_5", *TILED_ALONE)


def inputs(folder: Path) -> InputBuilder:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.renderers import renderer_from_config

    model = VLLM(str(folder), max_images=4)
    config = EngineArgs(model.weights(), **model.arguments()).create_engine_config()
    engine = SimpleNamespace(renderer=renderer_from_config(config), model_config=config.model_config)
    return InputBuilder(model.hf, engine)


@pytest.mark.parametrize("name", TWINS)
def test_token_ids_are_those_of_the_backend_hf(name: str, tmp_path: Path) -> None:
    builder, tiny = inputs(save_twin(name, tmp_path / name, own_template=True)), checkpoints.tiny_models()
    for images in ([], [1], [2], [1, 2, 3]):
        prompt = tiny.prompt(images, "what?")
        if len(images) > 1 and name in TILED_ALONE:
            with pytest.raises(ModelError, match=r"vLLM's processor makes .* use the backend 'hf'"):
                builder.of(prompt)
        else:
            assert tuple(builder.of(prompt)["prompt_token_ids"]) == builder.hf.ids(prompt)
