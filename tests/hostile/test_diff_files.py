"""A file of `icl doctor backends --save` and the labels of a run, as a stranger may have changed them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.cli.main import main
from experiments.diff.recording import FORMAT, load
from experiments.store.labels import LABELS, read_labels
from icl.errors import ICLError

ESCAPE = "\x1b]0;owned\x07"


def stored(path: Path, change: Callable[[dict[str, Any]], object], pixels: Any = None) -> Path:
    """A side of one prompt. change: edits its JSON; pixels: in place of those of its image."""
    trace = {
        "text": "a", "ids": [1, 2], "prompt_tokens": 2, "pixels": 1, "features": None, "top": {"a": -0.1},
        "tokens": ["a"], "margins": [2.0], "answer": "a", "stopped": True, "error": "",
    }  # fmt: skip
    entry = {"name": "text", "script": [["user", ["a"]]], "trace": trace, "cause": ""}
    facts = {"tokenizer": {"image tokens": [7]}, "arithmetic": {"dtype": "float32"}}
    content = {"name": "hf", "entries": [entry], "facts": facts, "hidden": {}, "edge": 64, "noise": 0.0}
    change(content)
    values = np.zeros((3, 2, 2), np.float32) if pixels is None else pixels
    save_file({"0.pixels.0": values}, path, {"icl": json.dumps({"format": FORMAT, **content})})
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda side: side.update(facts="x"), "facts"),
        (lambda side: side["facts"].update(arithmetic="x"), "arithmetic"),
        (lambda side: side["facts"].update(tokenizer={"image tokens": [[1]]}), "image tokens"),
        (lambda side: side["entries"][0]["trace"].update(top={"a": "x"}), "top"),
        (lambda side: side["entries"][0]["trace"].update(ids=[[1]]), "ids"),
        (lambda side: side["entries"][0]["trace"].update(extra=1), "extra"),
        (lambda side: side["entries"][0]["trace"].update(pixels=2), "0.pixels.1"),
        (lambda side: side.update(entries="x"), "entries"),
        (lambda side: side.update(hidden={"x": "y"}), "hidden"),
        (lambda side: side.update(edge=float("inf")), "edge"),
        (lambda side: side.update(edge=4097), "edge"),
        (lambda side: side.update(noise=float("nan")), "noise"),
    ],
)
def test_a_damaged_side_is_a_sentence(
    change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(tmp_path / "a.trace", change)
    with pytest.raises(ICLError, match=r"Write it again: icl doctor backends MODEL STUDY --save") as raised:
        load(path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert main(["doctor", "backends", str(path), str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("pixels", [np.zeros((0, 3), np.float32), np.zeros((3, 2), bool)])
def test_arrays_that_are_no_image_are_a_sentence(pixels: Any, tmp_path: Path) -> None:
    with pytest.raises(ICLError, match="pixels of 'text' are no numbers of an image"):
        load(stored(tmp_path / "a.trace", lambda _: None, pixels))


def test_a_side_does_not_control_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(side: dict[str, Any]) -> None:
        side.update(name=ESCAPE, hidden={"image features": ESCAPE})
        side["facts"]["arithmetic"]["dtype"] = ESCAPE
        side["entries"][0]["name"] = ESCAPE

    paths = [stored(tmp_path / "a.trace", change), stored(tmp_path / "b.trace", lambda side: (change(side), side.update(
        facts={"arithmetic": {"dtype": f"{ESCAPE}b"}})))]  # fmt: skip
    assert main(["doctor", "backends", *map(str, paths)]) == 0
    out = capsys.readouterr().out
    assert "owned" in out
    assert not {"\x1b", "\x07"} & {*out}


@pytest.mark.parametrize("value", [[], {}, 1e999, -1, "x" * 100_000, None])
@pytest.mark.parametrize("key", ["key", "by", "at", "look", "judge", "withdrawn"])
def test_labels_of_other_types_are_skipped_or_read(key: str, value: Any, tmp_path: Path) -> None:
    line = {"key": "a", "right": True, "by": "ana", "look": 60} | {key: value}
    whole = json.dumps({"key": "b", "right": True, "by": "ana"})
    (tmp_path / LABELS).write_text(f"{json.dumps(line)}\n{whole}\n")
    assert read_labels(tmp_path).verdict("b") is True
