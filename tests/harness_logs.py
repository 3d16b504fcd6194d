"""Writes small logs of other harnesses in the shape in which each harness writes them."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

ZSTANDARD = 93


def write_lmms(
    folder: Path, scores: Sequence[float], task: str = "pope_mini", *, questions: str = "Is there a {}?", **how: Any
) -> Path:
    """As `lmms_eval.loggers.EvaluationTracker` does. how: `reported`, `first` (doc_id), `metric`, `lower`."""
    folder.mkdir(parents=True, exist_ok=True)
    date, metric, first = "20260102_030405", how.get("metric", "exact"), how.get("first", 0)
    lines = [
        {
            "doc_id": first + i,
            "target": "yes" if i % 2 else "no",
            "filtered_resps": "yes" if (i % 2 == 1) == (score == 1) else "no",
            "token_counts": [{"input_tokens": 30, "output_tokens": 2}],
            "doc_hash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
            "input": questions.format(first + i),
            metric: score,
            "pope_f1": {"question_id": str(i), "score": score, "category": "adversarial" if i % 3 else "random"},
        }
        for i, score in enumerate(scores)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{date}_samples_{task}.jsonl").write_text(text)
    mean = sum(scores) / len(scores)
    results = {
        "results": {
            task: {"alias": task, f"{metric},none": mean, f"{metric}_stderr_clt,none": 0.1} | how.get("more", {})
        },
        "configs": {task: {"task": task, "num_fewshot": 0}},
        "n-shot": {task: 0},
        "higher_is_better": {task: {metric: not how.get("lower", False)}},
        "config": {"model": "llava_hf", "model_args": "pretrained=llava-hf/x"},
        "git_hash": "abc",
        "lmms_eval_version": "0.7.3",
        "date": date,
    }
    results["results"][task]["pope_f1,none"] = how.get("f1", 0.123)
    (folder / f"{date}_results.json").write_text(json.dumps(results, indent=2))
    return folder


def write_lm_eval(folder: Path, strict: Sequence[float], flexible: Sequence[float], task: str = "gsm_mini") -> Path:
    """As `lm_eval.loggers.EvaluationTracker` does: a line per filter and query."""
    folder.mkdir(parents=True, exist_ok=True)
    date = "2026-01-02T03-04-05.678901"
    by_filter = {"strict-match": strict, "flexible-extract": flexible}
    lines = [
        {
            "doc_id": i,
            "doc": {"question": f"What is {i} + 1?", "answer": str(i + 1), "domain": f"d{i % 3}"},
            "target": str(i + 1),
            "arguments": {"gen_args_0": {"arg_0": f"Question: What is {i} + 1?\nAnswer:", "arg_1": {"until": ["\n"]}}},
            "resps": [[str(i + 1) if score else "no"]],
            "filtered_resps": [str(i + 1) if score else "[invalid]"],
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"h{i}",
            "prompt_hash": f"p{i}",
            "target_hash": f"t{i}",
            "exact_match": score,
        }
        for name, scores in by_filter.items()
        for i, score in enumerate(scores)
    ]
    (folder / f"samples_{task}_{date}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reported = {f"exact_match,{name}": sum(scores) / len(scores) for name, scores in by_filter.items()}
    results = {
        "results": {task: {"alias": task, **reported}},
        "higher_is_better": {task: {"exact_match": True}},
        "n-shot": {task: 5},
        "config": {"model": "hf", "model_args": {"pretrained": "x"}},
        "lm_eval_version": "0.4.13",
    }
    (folder / f"results_{date}.json").write_text(json.dumps(results))
    return folder


def write_inspect(folder: Path, values: Mapping[tuple[str, int], str | None], *, zstandard: bool = True) -> Path:
    """As `inspect_ai.log` does: a zip, whose members newer versions compress with zstandard.

    Args:
        folder: Receives the log.
        values: (id, epoch) -> 'C', 'I', 'P' or 'N'; None for a sample that ended with an error.
        zstandard: Whether the members are compressed as newer versions do, else as older ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "2026-01-02T03-04-05+00-00_colors_abc.eval"
    header = {
        "version": 2,
        "status": "success",
        "eval": {
            "task": "colors",
            "created": "2026-01-02T03:04:05+00:00",
            "model": "mockllm/model",
            "model_args": {},
            "packages": {"inspect_ai": "0.3.285"},
        },
        "results": {
            "scores": [{"name": "match", "scorer": "match", "metrics": {"accuracy": {"value": _mean(values)}}}]
        },
    }
    members: dict[str, Any] = {"_journal/start.json": {"version": 2}}
    for (key, epoch), value in values.items():
        answer = {"C": "red", "N": ""}.get(value or "", "blue")
        members[f"samples/{key}_epoch_{epoch}.json"] = {
            "id": key,
            "epoch": epoch,
            "input": [{"role": "user", "content": [{"type": "text", "text": f"color of {key}?"}, {"type": "image"}]}],
            "target": "red",
            "output": {
                "model": "mockllm/model",
                "completion": answer,
                "choices": [{"message": {"role": "assistant", "content": answer}}],
                "usage": {"input_tokens": 7, "output_tokens": 1, "total_tokens": 8},
            },
            "scores": {"match": {"value": value, "answer": answer}} if value else {},
            "metadata": {"scene": key[:1]},
            **({} if value else {"error": {"message": "out of memory", "traceback": ""}}),
        }
    members["header.json"] = header
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if zstandard else zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            plain = json.dumps(content).encode()
            archive.writestr(name, _packed(plain) if zstandard else plain)
            if zstandard:  # the directory at the end says how the stored bytes are compressed
                info = archive.getinfo(name)
                info.compress_type, info.file_size, info.CRC = ZSTANDARD, len(plain), zlib.crc32(plain)
    return path


def vlmevalkit_rows(hits: Sequence[int], *, has_hits: bool = True, first: int = 0) -> list[dict[str, Any]]:
    """Rows of a table of predictions, of a judged one if it has hits."""
    return [
        {
            "index": first + i,
            "question": f"Which color is {first + i}?",
            "A": "red",
            "B": "blue",
            "answer": "A",
            "category": f"c{i % 2}",
            "prediction": "A" if hit else "B",
            **({"hit": hit, "log": "Match Log: exact"} if has_hits else {}),
        }
        for i, hit in enumerate(hits)
    ]


def write_vlmevalkit(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """As `vlmeval.smp.file.dump` does for .tsv and .json."""
    import csv

    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(list(rows))
    if path.suffix == ".json":
        path.write_text(json.dumps(frame.to_dict("records"), indent=4, ensure_ascii=False))
    else:
        frame.to_csv(path, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
    return path


def _mean(values: Mapping[Any, str | None]) -> float:
    numbers = [{"C": 1.0, "P": 0.5}.get(value, 0.0) for value in values.values() if value]
    return sum(numbers) / max(len(numbers), 1)


def _packed(plain: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(plain)
    return sink.getvalue().to_pybytes()
