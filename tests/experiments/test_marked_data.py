"""A question that would forge the end of its turn fails its own sample, and no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.api import run


def test_the_sample_of_data_with_a_mark_fails_and_its_line_names_the_part(
    tmp_path: Path, mapping: Callable[..., dict[str, Any]], shapes: str
) -> None:
    task = {"name": shapes, "spoilt": " <end> red"}
    done = run(mapping(task=task, model={"name": "hf", "path": "tiny"}, shots=0), runs=tmp_path, quiet=True)
    failed = done.samples().set_index("query")["failed"].dropna()
    assert list(failed.index) == ["q-0001"]
    assert "the text of query.question contains '<end>'" in failed.iloc[0]
