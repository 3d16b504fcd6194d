"""The shipped adapters of the tiny model: settings, size, and that one reads the images of demonstrations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import icl
from icl.models.hf.adapter import CONFIG, SHIPPED_ADAPTERS, WEIGHTS
from lab.tiny import marks
from lab.tiny.mimic_it import write
from lab.tiny.stages import MODULES, STAGES, ship, study

pytest.importorskip("peft")


def test_each_stage_has_a_shipped_adapter() -> None:
    assert set(SHIPPED_ADAPTERS) == {f"tiny_{name}" for name in (*STAGES, *marks.STAGES)}


@pytest.mark.parametrize("name", STAGES)
def test_a_shipped_adapter_has_the_settings_of_its_stage(name: str) -> None:
    folder, spec = SHIPPED_ADAPTERS[f"tiny_{name}"], study(name).tune
    config = json.loads((folder / CONFIG).read_text())
    assert spec is not None
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (spec.rank, spec.alpha, "tiny")
    tensors = load_file(folder / WEIGHTS[0])
    assert {key.split(".")[-3] for key in tensors} == set(MODULES)
    assert all(one.dtype == torch.float16 for one in tensors.values())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 400_000


def test_shipping_writes_half_precision_and_the_same_settings(tmp_path: Path) -> None:
    folder = SHIPPED_ADAPTERS["tiny_raven"]
    weights = {name: one.float() + 1e-6 for name, one in load_file(folder / WEIGHTS[0]).items()}
    (tmp_path / "trained").mkdir()
    save_file(weights, tmp_path / "trained" / WEIGHTS[0])
    (tmp_path / "trained" / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    ship(tmp_path / "trained", tmp_path / "out")
    assert (tmp_path / "out" / CONFIG).read_text() == (folder / CONFIG).read_text()
    written = load_file(tmp_path / "out" / WEIGHTS[0])
    assert all(torch.equal(written[name], one.half()) for name, one in weights.items())


def test_the_adapter_of_cobsat_reads_the_images_of_demonstrations(tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [{"name": "hf", "path": "tiny", "adapter": one} for one in (None, "tiny_cobsat")]
    keys = {"name": "x", "task": {"name": "cobsat", "queries": 12, "seed": 1}, "shots": 2, "max_new_tokens": 6}
    blank = [[], [{"name": "images", "how": "blank"}]]
    config = {**keys, "metrics": ["cobsat"], "grid": {"model": models, "transforms": blank}}
    samples = icl.run(config, runs=tmp_path, quiet=True).samples()
    score = samples.groupby(["model", "transforms"])["cobsat"].mean()
    assert score["tiny(adapter=tiny_cobsat)", "none"] > 0.8
    assert score["tiny(adapter=tiny_cobsat)", "images"] < 0.5
    assert score["tiny(adapter=None)", "none"] < 0.2


def test_a_name_that_is_neither_folder_nor_shipped_lists_the_shipped_adapters() -> None:
    with pytest.raises(icl.ModelError, match=r"model\.adapter: there is no folder .*shipped adapters are tiny_cobsat"):
        _ = icl.load_model("hf", path="tiny", adapter="tiny_cobsats").digest


def test_generated_instructions_have_the_relations_of_their_task_or_those_of_another(tmp_path: Path) -> None:
    source = icl.build("task", {"name": "binding", "ways": 2, "queries": 3, "support": 1, "by": "texture"})
    for name, turn in (("own", 0), ("other", 1)):
        write(source, tmp_path, name, turn)
        path, images = (str(tmp_path / f"{name}{end}.json") for end in ("_instructions", ""))
        made = icl.build("task", {"name": "mimic_it", "path": path, "images": images})
        assert len(made.queries) == 3
        for number, query in enumerate(source.queries):
            read = next(one for one in made.queries if one.id == query.id)
            assert (read.question, read.answer, read.images[0].digest) == (
                query.question, query.answer, query.images[0].digest
            )  # fmt: skip
            related = source.pool(source.queries[(number + turn) % 3].id).examples
            assert [one.id for one in made.pool(query.id).examples] == [one.id for one in related]
