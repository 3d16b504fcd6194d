"""A task of lmms-eval on local rows, and the stand-in of the package that reads it."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from icl.harness import loaded_task, task_file

PACKAGE_FOLDER = Path(__file__).parent / "stand_ins"
TASK = """\
task: hues
dataset_path: parquet
dataset_kwargs:
  data_files: {test: test.parquet, train: train.parquet}
training_split: train
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
process_results: !function utils.results
generation_kwargs: {max_new_tokens: 5, temperature: 0, do_sample: false, until: ["\\n"]}
metric_list:
  - {metric: exact, aggregation: mean, higher_is_better: true}
  - {metric: errors, aggregation: mean, higher_is_better: false}
  - {metric: dark_f1, aggregation: !function utils.f1, higher_is_better: true}
lmms_eval_specific_kwargs:
  default: {post_prompt: ""}
  short: {post_prompt: " One word."}
"""
CODE = """\
def visual(doc):
    return [doc["image"].convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"] + lmms_eval_specific_kwargs["post_prompt"]


def results(doc, results):
    right = float(results[0].lower() == doc["answer"])
    return {"exact": right, "errors": 1 - right, "dark_f1": {"output": results[0].lower(), "gold": doc["answer"]}}


def f1(pairs):
    hits = sum(p["output"] == "dark" == p["gold"] for p in pairs)
    return 2 * hits / max(1, sum((p["output"] == "dark") + (p["gold"] == "dark") for p in pairs))
"""


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in of lmms-eval in place of any installed one, imported anew."""
    caches = (task_file._installed_tasks, loaded_task._loaded, loaded_task._task_class)

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "lmms_eval"]:
            del sys.modules[name]
        for cache in caches:
            cache.cache_clear()
        importlib.invalidate_caches()

    forget()
    monkeypatch.syspath_prepend(str(PACKAGE_FOLDER))
    yield
    forget()


def write_rows(path: Path, count: int, first: int = 0) -> None:
    """Rows in which two neighbors share an image."""
    rows = [
        {
            "question": f"Is number {first + i} dark or light?",
            "answer": "dark" if (first + i) // 2 % 2 else "light",
            "kind": "even" if i % 2 == 0 else "odd",
            "place": (first + i) // 2 % 2,
            "image": PILImage.new("RGB", (8, 8), (first + i - i % 2, 0, 90)),
        }
        for i in range(count)
    ]
    texts = dict.fromkeys(("question", "answer", "kind"), Value("string"))
    Dataset.from_list(rows, Features(**texts, place=Value("int64"), image=Image())).to_parquet(path)


def write_task(folder: Path, task: str = TASK, code: str = CODE, queries: int = 8, pool: int = 12) -> Path:
    """The path of the task's YAML file, with its code and its rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hues.yaml").write_text(task)
    (folder / "utils.py").write_text(code)
    write_rows(folder / "test.parquet", queries)
    write_rows(folder / "train.parquet", pool, first=100)
    return folder / "hues.yaml"
