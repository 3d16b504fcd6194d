"""The model `mm_icl` of lmms-eval, on a stand-in of its interface: answers are those of this toolkit."""

import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from lmms_task import installed
from PIL import Image as PILImage

import icl
from icl.errors import ConfigError, ModelError
from icl.types import IMAGE_PLACEHOLDER

ROOT = Path(__file__).parents[3]
MODULE = "experiments.plugins.lmms_eval_model"


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with installed(monkeypatch):
        sys.modules.pop(MODULE, None)
        yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


def image(level: int) -> PILImage.Image:
    return PILImage.new("RGB", (64, 64), (level, 0, 90))


def messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "url": row["image"]}, {"type": "text", "text": row["q"]}]}]


ROWS = [{"image": image(40 * i), "q": f"what color is the {shape}?"} for i, shape in enumerate(("circle", "square"))]


def answers_of(model: Any, settings: dict[str, Any], rows: list[dict[str, Any]] = ROWS) -> list[Any]:
    from lmms_eval.api.instance import Instance

    model.task_dict = {"t": {"test": rows}}
    return model.generate_until([Instance(("", messages, settings, row, "t", "test")) for row in range(len(rows))])


def test_the_entry_point_names_the_class(module: Any) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    points = tomllib.loads(text)["project"]["entry-points"]["lmms_eval.models"]
    (manifest,) = EntryPoint("mm_icl", points["mm_icl"], "lmms_eval.models").load()()
    assert manifest.model_id == "mm_icl"
    assert manifest.chat_class_path == f"{module.__name__}.{module.MMICL.__name__}"
    assert module.MMICL.is_simple is False


@pytest.mark.parametrize(
    ("arguments", "node"),
    [
        ({}, "greedy"),
        ({"decoding": "vcd", "alpha": 2.0, "seed": 3}, {"name": "vcd", "alpha": 2.0}),
    ],
)
def test_answers_are_those_of_the_toolkit(module: Any, arguments: dict[str, Any], node: Any) -> None:
    model = module.MMICL(batch_size=1, **arguments)
    results = answers_of(model, {"max_new_tokens": 6, "temperature": 0, "until": ["\n\n"]})
    for i, result in enumerate(results):
        turns = tuple(module.turns_of(messages(ROWS[i]), f"t/{i}"))
        prompt = module.Prompt(turns, module.StreamKey(arguments.get("seed", 0), f"t/{i}"))
        (generation,) = icl.answer(model.model, prompt, node, 6).values()
        assert result.text == generation.text
        assert result.token_counts.output_tokens == generation.usage.new_tokens
        assert result.token_counts.input_tokens == generation.usage.prompt_tokens


def test_a_temperature_samples_unless_sampling_is_off(module: Any) -> None:
    model = module.MMICL()
    hot = [r.text for r in answers_of(model, {"max_new_tokens": 6, "temperature": 50.0})]
    cold = [r.text for r in answers_of(model, {"max_new_tokens": 6, "temperature": 50.0, "do_sample": False})]
    assert hot != cold == [r.text for r in answers_of(model, {"max_new_tokens": 6})]
    with pytest.raises(ConfigError, match="num_beams"):
        answers_of(model, {"num_beams": 3})


def test_parts_have_the_names_that_strategies_edit(module: Any) -> None:
    turns = list(
        module.turns_of(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "image", "url": image(1)}, {"type": "text", "text": "a?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
                *messages(ROWS[0] | {"q": "c?"}),
            ],
            "t/0",
        )
    )
    names = [part.name for turn in turns for part in turn.parts]
    demo = ["demo[0].image[0]", "demo[0].question", "demo[0].answer"]
    assert names == ["instruction", *demo, "query.image[0]", "query.question"]
    assert module.Prompt(tuple(turns)).text.count(IMAGE_PLACEHOLDER) == 2
    with pytest.raises(ConfigError, match="t/0 has a piece of type video"):
        list(module.turns_of([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}], "t/0"))


def test_nested_nodes_are_read_from_a_file(module: Any, tmp_path: Path) -> None:
    file = tmp_path / "arm.yaml"
    file.write_text("model: {name: hf, path: tiny}\ndecoding: {name: mask_only, of: {name: vcd, beta: 0.4}}\n")
    assert module.MMICL(config=str(file)).node == {"name": "mask_only", "of": {"name": "vcd", "beta": 0.4}}
    with pytest.raises(ConfigError, match="config stands for all other arguments"):
        module.MMICL(config=str(file), alpha=1)
    file.write_text("shots: 4\n")
    with pytest.raises(ConfigError, match="may have the keys model, decoding, and no others"):
        module.MMICL(config=str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        module.MMICL(config=str(tmp_path / "no.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoding": "vdc"}, "model_args: no strategy named 'vdc'"),
        ({"decoding": "vcd", "gamma": 1}, "has no parameter 'gamma'"),
        ({"model_dtyp": "float32"}, "has no parameter 'dtyp'"),
        ({"backend": "fake-vote"}, "cannot be decoded by a strategy|has no parameter 'path'"),
    ],
)
def test_wrong_arguments_are_sentences(module: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        module.MMICL(**arguments)


def test_several_processes_and_other_requests_are_refused(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = module.MMICL()
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError):
            method([])
    with pytest.raises(ModelError, match="t, doc_id 0: "):
        answers_of(model, {}, [{"image": image(1), "q": "word " * 5000}])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="runs in one process"):
        module.MMICL()
