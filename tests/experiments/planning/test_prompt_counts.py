"""The estimate of an engine's prefix cache: shared prefixes of prompts, in whole blocks."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models

import experiments.planning.plan
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.grid.grid import Grid, expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.planning.prompt_counts import PrefixBlocks, PrefixReuse
from icl.models.hf.model import HF
from icl.models.vllm.model import VLLM


def reuse(model: Any, prompts: Any) -> PrefixReuse:
    blocks = PrefixBlocks()
    for index, prompt in enumerate(prompts):
        blocks.add(model, prompt, model.count_tokens(prompt), 1, index)
    return blocks.scaled(1, 1)


def test_blocks_are_equal_up_to_the_first_different_token_or_image() -> None:
    model = VLLM(engine_args={"block_size": 4})
    one, words, image = (
        tiny_models.prompt(images, text, "q")
        for images, text in (([1, 2], "what is it?"), ([1, 2], "what is that?"), ([1, 3], "what is it?"))
    )
    size, own = model.prefix_blocks(one)
    assert len(own) == (model.count_tokens(one) - 1) // 4
    assert (size, own) == model.prefix_blocks(one)
    same = {name: sum(a == b for a, b in zip(own, model.prefix_blocks(other)[1], strict=False)) for name, other in
            (("words", words), ("image", image))}  # fmt: skip
    assert 0 < same["image"] < same["words"] < len(own)
    assert len(model.hf.renderer.text(one)) == len(model.hf.renderer.text(image))


def test_repeated_blocks_are_cached() -> None:
    model = VLLM(engine_args={"block_size": 4})
    prompt = tiny_models.prompt([1, 2], "what is it?", "q")
    assert reuse(model, [prompt]).cached == 0
    assert reuse(model, [prompt] * 3).cached == 2 * 4 * len(model.prefix_blocks(prompt)[1])
    assert reuse(dataclasses.replace(model, enable_prefix_caching=False), [prompt] * 3).cached == 0
    assert reuse(object(), []).fraction is None


@pytest.mark.parametrize("retriever", ["lab.bench.grid:Fixed", "random"])
def test_a_plan_that_counts_some_queries_estimates_the_reuse_of_all(
    retriever: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"name": "x", "task": {"name": "easy-vqa", "queries": 60}, "retriever": retriever, "shots": 4}
    some = make_plan(expand(load_config({**file, "model": "vllm"})))
    assert some.counted["easy-vqa"] == (24, 60)
    monkeypatch.setattr(experiments.planning.plan, "SAMPLED_QUERIES", 60)
    every = make_plan(expand(load_config({**file, "model": "vllm"})))
    assert some.cached_fraction is not None
    assert some.cached_fraction == pytest.approx(every.cached_fraction, abs=0.03)
    assert (some.cached_fraction > 0.4) == (retriever != "random")
    assert any(line.startswith("prefix cache") and f"{some.cached_fraction:.0%}" in line for line in format_plan(some))
    assert make_plan(expand(load_config({**file, "model": "hf"}))).cached_fraction is None


CONFIG: dict[str, Any] = {
    "name": "t",
    "model": {"name": "hf", "path": "tiny"},
    "task": {"name": "binding", "queries": 3},
    "grid": {"shots": [0, 2], "decoding": ["greedy", "vcd"]},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _grid(**more: Any) -> Grid:
    return expand(load_config(CONFIG | more))


def _refuse_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HF, "count_tokens", lambda *_: pytest.fail("a prompt was counted again"))
    monkeypatch.setattr(HF, "max_tokens", property(lambda _: pytest.fail("the config was read again")))


def test_a_second_plan_counts_no_prompt_and_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(format_plan(make_plan(_grid())))
    _refuse_counting(monkeypatch)
    assert list(format_plan(make_plan(_grid()))) == first


def test_a_plan_with_new_prompts_counts_these_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plan(_grid())
    counted: list[str] = []
    count_tokens = HF.count_tokens
    monkeypatch.setattr(
        HF, "count_tokens", lambda self, prompt: counted.append(prompt.digest) or count_tokens(self, prompt)
    )
    plan = make_plan(_grid(grid={"shots": [0, 2, 3]}))
    assert 0 < len(counted) == len(set(counted)) <= 3
    monkeypatch.setattr(HF, "count_tokens", count_tokens)
    (file,) = cache.rglob("token_counts/*.json")
    file.unlink()
    assert list(format_plan(make_plan(_grid(grid={"shots": [0, 2, 3]})))) == list(format_plan(plan))


def test_another_checkpoint_has_its_own_counts(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    model = _grid().models[0]
    shutil.copytree(str(model.checkpoint.folder), tmp_path / "copy")  # type: ignore[attr-defined]
    make_plan(_grid())
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text("x x x x " + template.read_text())
    longer = make_plan(_grid(model={"name": "hf", "path": str(tmp_path / "copy")}))
    assert longer.work.tokens > make_plan(_grid()).work.tokens
    assert len(list(cache.rglob("token_counts/*.json"))) == 2


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_file_of_counts_is_made_again(cache: Path, content: str) -> None:
    first = list(format_plan(make_plan(_grid())))
    (file,) = cache.rglob("token_counts/*.json")
    counts = json.loads(file.read_text())
    file.write_text(content)
    assert list(format_plan(make_plan(_grid()))) == first
    assert json.loads(file.read_text()) == counts


def test_the_counts_of_an_endpoint_are_not_stored(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HF, "is_endpoint", True)
    make_plan(_grid())
    assert not list(cache.rglob("token_counts/*"))


def test_a_second_plan_imports_neither_torch_nor_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.json").write_text(json.dumps(CONFIG))
    assert main(["plan", "t.json"]) == 0
    first = capsys.readouterr().out
    code = (
        "import sys; from experiments.cli.main import main; status = main(['plan', 't.json'])\n"
        "print(status, sorted({'torch', 'transformers', 'pandas', 'torchvision'} & set(sys.modules)))"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert second == first + "0 []\n"
