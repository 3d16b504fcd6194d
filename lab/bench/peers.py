"""Commands of lmms-eval and lm-eval against `icl run`, on the same questions and checkpoint: `make peers`.

`peers=PYTHON` is a Python with lmms-eval, lm-eval, qwen-vl-utils and decord. Each command answers FEW questions and
then MORE, in a process of its own. The difference is the cost of a question. The rest is the fixed cost of the command:
imports, loading the model, tables and files. The checkpoints have random weights and few parameters, so the figures
compare what the programs add to a model. The number of equal answers shows that they compute the same prompts.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from lab.bench import Row, rounds
from lab.bench.timing import children_cpu_seconds, round_ratios, with_spread

FEW, MORE, ROUNDS = 16, 240, 3
BATCH, NEW_TOKENS, SHOTS = 16, 8, 4
SIDE = 56
"""Pixels of the images. They are plain gray, which the JPEG files that lmms-eval makes of images keep exactly."""


@dataclass(frozen=True)
class Work:
    """The same questions for `icl run` and for another harness."""

    what: str
    module: str
    study: dict[str, Any]
    arguments: tuple[str, ...]  # of the other harness
    first: int = 0  # the number in the id of the first question

    def ours(self, folder: Path, limit: int, number: int) -> list[str]:
        """The command that answers `limit` questions in a new run."""
        file = folder / f"{self.module}-{number}-{limit}.yaml"
        file.write_text(json.dumps({"name": file.stem, "max_new_tokens": NEW_TOKENS, **self.study}), encoding="utf-8")
        return [sys.executable, "-m", "icl", "run", str(file), f"task.queries={limit}", "--quiet"]

    def theirs(self, python: str, folder: Path, limit: int, number: int) -> list[str]:
        """The command of the other harness, which stores its samples, too."""
        out = folder / f"{self.module}-{number}-{limit}"
        own = ["--limit", str(limit), "--batch_size", str(BATCH), "--log_samples", "--output_path", str(out)]
        return [python, "-m", self.module, *self.arguments, *own]


def rows(peers: str = sys.executable) -> Iterator[Row]:
    """The figures of this file. `peers` is a Python that has lmms-eval and lm-eval."""
    with tempfile.TemporaryDirectory(prefix="icl-peers-") as name:
        folder = Path(name)
        for work in (_images(folder), _text(folder)):
            if subprocess.run([peers, "-c", f"import {work.module}"], capture_output=True, check=False).returncode:
                yield f"{work.module} is not installed for {peers}: see the text of lab/bench/peers.py", "–", ""
                continue
            yield from _compared(work, peers, folder)


def _compared(work: Work, python: str, folder: Path) -> Iterator[Row]:
    seconds: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds(ROUNDS) + 1):
        for limit in (FEW, MORE):
            commands = {"ours": work.ours(folder, limit, number), "theirs": work.theirs(python, folder, limit, number)}
            for who, command in commands.items():
                used = children_cpu_seconds(partial(_finish, command, folder))
                if number:  # the first round compiles modules
                    seconds.setdefault((who, limit), []).append(used)
    each = {who: _each(seconds[who, FEW], seconds[who, MORE]) for who in ("ours", "theirs")}
    ratio = with_spread(round_ratios(each["theirs"], each["ours"]), " x", 1)
    costs = [f"{1e3 * median(each[who]):.1f} ms" for who in ("ours", "theirs")]
    yield f"{work.what}: a question, {work.module} over icl run", f"{ratio}, {costs[0]} and {costs[1]}", ""
    fixed = {
        who: [all_of - FEW * one for all_of, one in zip(seconds[who, FEW], each[who], strict=True)] for who in each
    }
    ratio = with_spread(round_ratios(fixed["theirs"], fixed["ours"]), " x", 1)
    costs = [f"{median(fixed[who]):.1f} s" for who in ("ours", "theirs")]
    yield "  fixed cost of the command", f"{ratio}, {costs[0]} and {costs[1]}", ""
    equal, both = _equal_answers(work, folder)
    yield "  equal answers", f"{equal} of {both}", ""


def _each(few: Sequence[float], more: Sequence[float]) -> list[float]:
    """Seconds of one question in each round."""
    return [(b - a) / (MORE - FEW) for a, b in zip(few, more, strict=True)]


def _finish(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    out = Path(command[-1])  # of the other harness, which exits with 0 after an error, too
    if done.returncode or ("--output_path" in command and not any(out.rglob("*samples*.jsonl"))):
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _equal_answers(work: Work, folder: Path) -> tuple[int, int]:
    """How many answers of the last round are equal, and their number."""
    from experiments.results.loaded_run import load_run

    number = rounds(ROUNDS)
    frame = load_run(folder / "runs" / f"{work.module}-{number}-{MORE}").samples()
    ours = {
        int(str(query).rpartition("-")[2]): text for query, text in zip(frame["query"], frame["output"], strict=True)
    }
    (log,) = (folder / f"{work.module}-{number}-{MORE}").rglob("*samples*.jsonl")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    theirs = {line["doc_id"] + work.first: line["filtered_resps"] for line in lines}
    texts = {key: value if isinstance(value, str) else value[0] for key, value in theirs.items()}
    return sum(text.strip() == ours[key].strip() for key, text in texts.items()), len(texts)


def _images(folder: Path) -> Work:
    """Questions about an image, without demonstrations, because lmms-eval sends none with images."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageColumn
    from PIL import Image as PILImage

    from tests.random_models.make import save

    model = save("qwen2_5_vl", folder / "vlm")
    columns = {
        "id": [f"picture-{i}" for i in range(MORE)],
        "image": [PILImage.new("RGB", (SIDE, SIDE), (level, level, level)) for level in range(MORE)],
        "question": [f"What is picture {i}?" for i in range(MORE)],
        "answer": ["gray"] * MORE,
    }
    features = Features({"image": ImageColumn(), **{key: Value("string") for key in ("id", "question", "answer")}})
    Dataset.from_dict(columns, features=features).to_parquet(folder / "rows.parquet")
    task = {
        "task": "pictures",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.parquet")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": NEW_TOKENS, "temperature": 0, "until": ["\n\n"]},
    }
    _write_task(folder / "lmms", task, "doc_to_visual: !function functions.images\n")
    (folder / "lmms" / "functions.py").write_text(
        "def images(row):\n    return [row['image'].convert('RGB')]\n", encoding="utf-8"
    )
    settings = f"pretrained={model},device=cpu,device_map=cpu,min_pixels={SIDE * SIDE},max_pixels={SIDE * SIDE}"
    return Work(
        what=f"an image and {NEW_TOKENS} tokens",
        module="lmms_eval",
        study={
            "task": {
                "name": "hub",
                "path": str(folder / "rows.parquet"),
                "columns": {"id": "id", "image": "image", "question": "question", "answer": "answer"},
                "pool_fraction": 0.0,
            },
            "model": {"name": "hf", "path": str(model), "dtype": "bfloat16", "device": "cpu"},
        },
        arguments=(
            *("eval", "--model", "qwen2_5_vl", "--model_args", settings),
            *("--tasks", "pictures", "--include_path", str(folder / "lmms")),
        ),
    )


def _text(folder: Path) -> Work:
    """Questions with text demonstrations as turns: the first rows of the pool, the same ones for each question."""
    from tests.random_models.texts import save_text

    model = save_text("llama", folder / "text")
    for split, numbers in (("pool", range(SHOTS)), ("test", range(SHOTS, SHOTS + MORE))):
        lines = [
            json.dumps({"id": f"sum-{i}", "question": f"What is {i} plus {i + 1}?", "answer": str(2 * i + 1)})
            for i in numbers
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in ("pool", "test")}},
        "test_split": "test",
        "fewshot_split": "pool",
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"max_gen_toks": NEW_TOKENS, "do_sample": False, "until": []},
    }
    _write_task(folder / "lm", task)
    return Work(
        what=f"text, {SHOTS} shots and {NEW_TOKENS} tokens",
        module="lm_eval",
        study={
            "task": {
                "name": "hub",
                "path": str(folder / "test.jsonl"),
                "pool_path": str(folder / "pool.jsonl"),
                "columns": {"id": "id", "question": "question", "answer": "answer"},
            },
            "model": {"name": "hf", "path": str(model), "dtype": "float32", "device": "cpu"},
            "shots": SHOTS,
            "retriever": {"name": "fixed", "ids": [f"pool-sum-{i}" for i in range(SHOTS)]},
            "order": "as_retrieved",
        },
        arguments=(
            *("run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"),
            *("--tasks", "sums", "--include_path", str(folder / "lm"), "--num_fewshot", str(SHOTS)),
            *("--apply_chat_template", "--fewshot_as_multiturn", "true"),
        ),
        first=SHOTS,
    )


def _write_task(folder: Path, task: dict[str, Any], more: str = "") -> None:
    """Writes a task file of either harness."""
    metrics = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    folder.mkdir()
    keys = {**task, "output_type": "generate_until", "metric_list": metrics}
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in keys.items()]
    (folder / "task.yaml").write_text("".join(lines) + more, encoding="utf-8")
