"""Exported vectors do in another engine what the intervention does here, and edits that cannot are sentences."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers

from decoding.interventions.control_vector import vector_files
from decoding.interventions.vector_file import write_vector_file
from icl.errors import ConfigError
from icl.models.hf.model import HF
from icl.models.interventions import steer
from icl.registry import build
from icl.types import Prompt
from tests.decoding.interventions.llama_cpp import directions, last_logits, write_model
from tests.random_models.common import Size
from tests.random_models.texts import save_text

LAYERS, WIDTH = 4, 64
PROMPT = Prompt((tiny_models.turn("user", "what color is the large square?", name="query"),))
STATES = torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(0))
TENSORS = {
    "task_vector": ({"states": STATES, "states.zero_shot": 0.5 * STATES.flip(0)}, {"layer": 2, "how": "add"}),
    "function_vector": (
        {"contributions": STATES[:, None] / 4, "effects": torch.arange(LAYERS)[:, None] + 1.0},
        {"layer": 1, "num_heads": 2},
    ),
    "ltv": ({"vectors": STATES}, {"layers": [0, 1, 2, 3]}),
    "m2iv": ({"vectors": STATES[1:]}, {"sites": [["mlp", 1], ["mlp", 2], ["mlp", 3]], "tokens": "all"}),
    "icv": ({"directions.mean": STATES}, {"layers": [0, 1]}),
    "mtv": (
        {"heads": torch.ones(1, 4, 16), "effects": torch.ones(1, 4)},
        {"layers": [1], "search": "effect", "num_heads": 2},
    ),
    "dara": ({"log_factors": torch.ones(1, 4)}, {"layers": [1], "keys": ["images"], "tokens": "all"}),
    "context_vectors": ({}, {}),
}


def fitted(name: str, folder: Path, **parameters: Any) -> dict[str, Any]:
    """The config node of a method with a file of vectors."""
    tensors, chosen = TENSORS[name]
    write_vector_file(
        folder / f"{name}.safetensors",
        name,
        tensors=tensors,
        parameters=chosen,
        record={"width": WIDTH},
        report={},
    )
    return {"name": name, "fitted": str(folder / f"{name}.safetensors"), **parameters}


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> HF:
    size = Size(layers=LAYERS, width=WIDTH)
    return HF(path=str(save_text("qwen3", tmp_path_factory.mktemp("qwen3"), size=size)), device="cpu")


def edited(*call: Any, row: torch.Tensor, places: list[int], algorithm: str) -> torch.Tensor:
    """A layer's output with a direction at some places. call: the layer, its inputs and its output."""
    states: torch.Tensor = call[-1].clone()
    states[0, places] = row if algorithm == "replace" else states[0, places] + row
    return states


def logits_by_rule(hf: HF, files: Path, apply: dict[str, Any], algorithm: str) -> torch.Tensor:
    """Last logits [V] under an exported file, by the rule of its format: hooks on the layers of transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(hf.path).eval()
    ids = hf.token_ids(PROMPT)
    places = list(range(len(ids))) if apply.get("prompt") == "all" else apply["prompt_positions"]
    for layer, direction in directions(files).items():
        hook = partial(edited, row=torch.tensor(direction), places=places, algorithm=algorithm)
        model.model.layers[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0, -1]
    return logits


def export(form: str, node: dict[str, Any], folder: Path) -> dict[Path, bytes]:
    files = vector_files(form, build("intervention", node), folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def steered_logits(hf: HF, node: dict[str, Any] | None = None) -> torch.Tensor:
    """Last logits [V] under the intervention itself."""
    prompt = PROMPT if node is None else steer(PROMPT, build("intervention", node).intervention())
    return hf.open([prompt]).logits[0]


EASYSTEER = [
    ("task_vector", {}, "direct", {"prompt_positions": [-1]}),
    ("task_vector", {"how": "replace"}, "replace", {"prompt_positions": [-1]}),
    ("task_vector", {"tokens": "all", "strength": 0.5}, "direct", {"prompt": "all", "generation": "all"}),
    ("function_vector", {"part": "both"}, "direct", {"prompt_positions": [-1], "generation": "all"}),
    ("ltv", {"control": "none", "strength": 2.0}, "direct", {"prompt_positions": [-1]}),
    ("m2iv", {"strength": 0.5}, "direct", {"prompt": "all", "generation": "all"}),
]


@pytest.mark.parametrize("case", EASYSTEER)
def test_the_file_by_its_rule_is_the_intervention(
    hf: HF, tmp_path: Path, case: tuple[str, dict[str, Any], str, dict[str, Any]]
) -> None:
    name, parameters, algorithm, apply = case
    node = fitted(name, tmp_path, **parameters)
    (vector,) = json.loads(export("easysteer", node, tmp_path)[Path("steering.json")])["vectors"]
    file = tmp_path / "vector.gguf"
    assert vector == {"source": file.as_posix(), "algorithm": algorithm, "scale": 1.0, "apply": apply}
    expected = steered_logits(hf, node)
    assert (expected - steered_logits(hf)).abs().max() > 0.01
    assert torch.allclose(logits_by_rule(hf, file, apply, algorithm), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "parameters"), [("task_vector", {"tokens": "all"}), ("m2iv", {"strength": 0.5})])
def test_llama_cpp_with_the_file_gives_the_logits_of_the_intervention(
    hf: HF, tmp_path: Path, name: str, parameters: dict[str, Any]
) -> None:
    pytest.importorskip("llama_cpp_py_sync")
    node, model, ids = fitted(name, tmp_path, **parameters), tmp_path / "model.gguf", hf.token_ids(PROMPT)
    assert set(export("control_vector", node, tmp_path)) == {Path("vector.gguf")}
    write_model(Path(hf.path), model)
    assert torch.allclose(torch.tensor(last_logits(model, ids)), steered_logits(hf), atol=1e-4)
    steered = torch.tensor(last_logits(model, ids, tmp_path / "vector.gguf"))
    assert torch.allclose(steered, steered_logits(hf, node), atol=1e-4)


REFUSED = [
    ("mtv", {}, "mtv cannot be exported as control_vector: it acts on heads of layer 1, and the engine adds to the"),
    ("dara", {}, "it acts on scores of layer 1, and the engine adds to the output of a layer."),
    ("icv", {}, "its edit depends on the state, and the engine adds the same vector to each."),
    ("context_vectors", {}, "its edit depends on the prompt."),
    (
        "task_vector",
        {},
        r"at every token of prompt and answer, and it acts at end of prompt \(task_vector has tokens: all",
    ),
    ("task_vector", {"how": "replace"}, r"it moves states to a vector, and the engine adds one \(how: add\)."),
    ("task_vector", {"how": "replace", "tokens": "all"}, "would replace every state by one vector. Set how: add."),
    ("task_vector", {"tokens": "all", "layer": 0}, "llama.cpp has no direction for layer 0."),
    ("task_vector", {"tokens": "all", "acts_in": "answer"}, "it acts in one part of a reasoning output."),
]


@pytest.mark.parametrize(("name", "parameters", "sentence"), REFUSED)
def test_an_edit_that_the_engine_does_not_make_is_a_sentence(
    tmp_path: Path, name: str, parameters: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        export("control_vector", fitted(name, tmp_path, **parameters), tmp_path)


def test_methods_without_a_file_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vista cannot be exported as easysteer: it has no file of fitted vectors\."):
        export("easysteer", {"name": "vista"}, tmp_path)
    with pytest.raises(ConfigError, match=r"'task_vector' has no vectors yet\. Run `icl fit`"):
        export("easysteer", {"name": "task_vector"}, tmp_path)
