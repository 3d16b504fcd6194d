"""`system`, `template` and `image_processor` give one prompt on `hf`, in vLLM and from a request to the server."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers.registry import renderer_from_config

from decoding.server.request_parsing import parse_request
from decoding.server.strategy_server import StrategyServer
from icl.models import icl_server
from icl.models.base import Request
from icl.models.hf.model import HF
from icl.models.remote import Remote
from icl.models.vllm.engine_io import InputBuilder
from icl.models.vllm.model import VLLM
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Prompt
from prompts.composers.turns import Chat

SETTINGS: dict[str, Any] = {"template": {"enable_thinking": False}, "image_processor": {"max_pixels": 48 * 48}}
END = "{% if add_generation_prompt %}<|assistant|>{{ '<think>' if enable_thinking else '<think></think>' }}{% endif %}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random checkpoint whose template has a switch for thinking."""
    folder = shutil.copytree(checkpoints.shared("qwen2_5_vl"), tmp_path_factory.mktemp("settings") / "checkpoint")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + END, encoding="utf-8")
    return str(folder)


def few_shot(system: str | None) -> Prompt:
    image = checkpoints.tiny_models().image
    demo, query = (
        Example(f"e{i}", (image(i, (480, 640)),), "Which color?", (word,)) for i, word in ((1, "red"), (2, ""))
    )
    context = Context(query.query, (Demo(demo, 0.5, 0),), StreamKey(3, "q"))
    return Chat(system=system).compose(context)


def renderer(path: str, **settings: Any) -> Any:
    """vLLM's own processing of inputs, without an engine."""
    names = ("dtype", "max_model_len", "limit_mm_per_prompt", "mm_processor_kwargs", "mm_device_do_normalize")
    arguments = VLLM(path, **settings).arguments()
    config = EngineArgs(
        path, enforce_eager=True, **{name: arguments[name] for name in names if name in arguments}
    ).create_engine_config()
    return SimpleNamespace(renderer=renderer_from_config(config), model_config=config.model_config)


def pixels(engine_input: Any) -> torch.Tensor:
    return torch.cat([item["pixel_values"].data for item in engine_input["mm_kwargs"]["image"]])


def test_the_three_keys_give_one_prompt_everywhere(path: str) -> None:
    prompt = few_shot("Answer with one word.")
    hf = HF(path, **SETTINGS)
    text = hf.render(prompt)
    assert "Answer with one word." in text.partition("Which color?")[0]
    assert text.endswith("<think></think>")
    assert len(hf.ids(prompt)) < len(HF(path).ids(few_shot(None)))
    expected = torch.cat(
        [inputs["pixel_values"] for inputs, _ in hf.pixels.pixels([(p, False) for p in prompt.images])]
    )

    in_engine = InputBuilder(VLLM(path, **SETTINGS).hf, renderer(path, **SETTINGS)).of(prompt)
    assert tuple(in_engine["prompt_token_ids"]) == hf.ids(prompt)
    assert torch.equal(pixels(in_engine), expected)

    server = StrategyServer(
        SimpleNamespace(
            engine_client=renderer(path),
            args=SimpleNamespace(model=path, trust_remote_code=False, revision=None),
            openai_serving_models=None,
            vllm_config=SimpleNamespace(
                parallel_config=SimpleNamespace(data_parallel_size=1, distributed_executor_backend="uni")
            ),
        )
    )
    body = {
        **Remote("http://host/v1", "m", **SETTINGS).prompt_fields,
        **icl_server.strategy_request(Request(prompt, strategy={"name": "greedy"})),
    }
    request = parse_request(json.loads(json.dumps(body)))
    served = server.inputs_for(request).of(request.prompt)
    assert tuple(served["prompt_token_ids"]) == hf.ids(prompt)
    assert torch.equal(pixels(served), expected)
    plain = server.inputs_for(replace(request, template={}, image_processor={})).of(request.prompt)
    assert plain["mm_hashes"] != served["mm_hashes"], "an image is another one under other settings"
