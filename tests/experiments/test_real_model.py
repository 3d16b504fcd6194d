"""A grid on a real architecture with random weights: what is shared changes nothing, and is really shared."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.store.store import Store

GRID = {"shots": [0, 2], "retriever": ["random", "balanced"], "decoding": ["greedy", "vcd"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    import tiny_models

    return str(tiny_models.save("idefics3", tmp_path_factory.mktemp("idefics3")))


@pytest.fixture
def config(mapping: Callable[..., dict[str, Any]], checkpoint: str) -> dict[str, Any]:
    return mapping(model={"name": "hf", "path": checkpoint}, grid=GRID, seeds=[0, 1], max_new_tokens=4)


def outputs(folder: Path) -> dict[tuple[Any, ...], str]:
    frame = load_run(folder).samples()
    keys = zip(frame["shots"], frame["retriever"], frame["decoding"], frame["seed"], frame["query"], strict=True)
    return dict(zip(keys, frame["output"], strict=True))


def test_all_arms_together_answer_as_each_alone(config: dict[str, Any], tmp_path: Path) -> None:
    assert run(load_config(config), tmp_path).failed == 0
    together = outputs(tmp_path / "t")
    assert len(together) == 6 * 2 * (1 + 2) * 2
    assert len(set(together.values())) > 6
    for decoding in GRID["decoding"]:
        alone = {**config, "name": f"alone-{decoding}", "grid": {**GRID, "decoding": [decoding]}}
        run(load_config(alone), tmp_path)
        own = outputs(tmp_path / f"alone-{decoding}")
        assert own == {key: output for key, output in together.items() if key[2] == decoding}


def test_a_run_with_holes_is_filled_as_in_one_go(config: dict[str, Any], tmp_path: Path) -> None:
    run(load_config(config), tmp_path / "whole")
    run(load_config(config), tmp_path / "holes")
    for i, path in enumerate(sorted((tmp_path / "holes").rglob("*.jsonl"))):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[i % 2 :: 2]))
    assert run(load_config(config), tmp_path / "holes").computed == 36
    assert outputs(tmp_path / "holes" / "t") == outputs(tmp_path / "whole" / "t")


def test_images_are_encoded_once_and_equal_prompts_prefilled_once(config: dict[str, Any], tmp_path: Path) -> None:
    run(load_config(config), tmp_path)
    info = Store(tmp_path / "t").read_run() or {}
    counters = info["sessions"][-1]["counters"]
    frame = load_run(tmp_path / "t").samples()
    plain = {digest for digests in frame["images"] for digest in digests}
    prompts = frame["prompt_digest"].nunique()
    noised = 6 * 2  # the query's image, for each seed
    contrasted = frame[frame["decoding"] == "vcd"].groupby(["prompt_digest", "seed"]).ngroups
    assert counters["images_encoded"] == len(plain) + noised
    assert counters["prompts_prefilled"] == prompts + contrasted
    assert counters["prefill_tokens"] <= counters["prompt_tokens"]


def test_a_finished_run_is_found_finished_without_loading_torch(
    config: dict[str, Any], tmp_path: Path, checkpoint: str
) -> None:
    (tmp_path / "t.yaml").write_text(json.dumps(config))
    words = ["run", str(tmp_path / "t.yaml"), "--runs", str(tmp_path)]
    assert main(words) == 0
    code = (
        "import sys; from experiments.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("nothing to do (72 samples present)")
    assert done.stdout.splitlines()[-1] == "[]"


def test_options_that_a_mask_excludes_are_counted_in_the_samples_and_the_report(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """beta = 1 leaves the model's likeliest token at each step, and no option of this task consists of these."""
    arms = ["greedy", {"name": "vcd", "beta": 1}, {"name": "vcd", "beta": 0}]
    of_options = {"answer_mode": "options", "grid": {"decoding": arms}, "shots": 0, "seeds": [0]}
    run(load_config({**config, **of_options}), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    masked = frame["masked"].fillna(0).astype(int).groupby(frame["decoding"]).agg(["sum", "size"])
    count, size = masked.loc["vcd(beta=1)"]
    assert count > 0
    assert masked["sum"].sum() == count
    [note] = [one for one in view_run(load_run(tmp_path / "t")).answer_notes if "mask" in one]
    assert note.startswith(
        f"the mask excludes every option, at some token: {count} of {size} answers under vcd(beta=1)"
    )
