import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from written_run import write_run

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.results.invocations import describe_invocation, version_differences
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.store.invocations import invocations_file
from experiments.store.store import Store

A100 = {"devices": ["A100", "A100"], "driver": "550.54"}
COMMIT = {"commit": "0123456789abcdef", "dirty": ""}


def record(store: Store, *records: dict[str, Any]) -> None:
    lines = [json.dumps({"id": number, **content}) for number, content in enumerate(records, 1)]
    invocations_file(store).write_text("".join(f"{line}\n" for line in lines))


def frame(*counts: int) -> pd.DataFrame:
    """counts: the number of samples of each process."""
    return pd.DataFrame({"invocation": [float(i) for i, count in enumerate(counts, 1) for _ in range(count)]})


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"versions": {"torch": "2.4"}}, {"versions": {"torch": "2.4"}}, ""),
        ({"start": "2026-01-01T00:00:00"}, {"start": "2026-01-02T00:00:00"}, ""),
        (
            {"versions": {"torch": "2.4"}},
            {"versions": {"torch": "2.5"}},
            "torch 2.4 (3 samples) and 2.5 (1 sample)",
        ),
        ({}, A100, "device none (3 samples) and 2 x A100 (1 sample); driver none (3 samples) and 550.54 (1 sample)"),
        (
            {"git": {"toolkit": COMMIT, "working_directory": None}},
            {"git": {"toolkit": {**COMMIT, "dirty": "abc"}, "working_directory": None}},
            "commit of the toolkit 0123456789 (3 samples) and 0123456789 with changes abc (1 sample)",
        ),
        (
            {"versions": dict.fromkeys(("a", "b", "c", "d", "e", "f", "g", "numpy"), "1")},
            {"versions": dict.fromkeys(("a", "b", "c", "d", "e", "f", "g", "numpy"), "2")},
            "; ".join(f"{name} 1 (3 samples) and 2 (1 sample)" for name in ("numpy", *"abcde")) + "; 2 more",
        ),
    ],
)
def test_the_sentence_lists_what_differs(tmp_path: Path, first: Any, second: Any, says: str) -> None:
    record(Store(tmp_path), first, second)
    whole = (
        f"Samples of this run come from different versions: {says}. Arms may differ because of them." if says else ""
    )
    assert version_differences(frame(3, 1), Store(tmp_path)) == whole


def test_scores_that_another_version_computed_count(tmp_path: Path) -> None:
    record(Store(tmp_path), {"versions": {"scipy": "1"}}, {"versions": {"scipy": "2"}})
    samples = frame(2)
    assert version_differences(samples, Store(tmp_path)) == ""
    samples["scores_invocation"] = [2.0, float("nan")]
    assert "scipy 1 (2 samples) and 2 (1 sample)" in version_differences(samples, Store(tmp_path))


def test_a_process_without_a_line_has_unknown_versions(tmp_path: Path) -> None:
    record(Store(tmp_path), {"versions": {"torch": "2.4"}})
    sentence = version_differences(frame(2, 3), Store(tmp_path))
    assert "unknown versions (3 samples, whose lines in invocations.jsonl are missing)" in sentence


def test_samples_that_name_no_process_need_no_file_of_processes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    invocations_file(store).write_text("damaged\n")
    assert version_differences(pd.DataFrame({"query": ["q"]}), store) == ""


def test_a_process_is_described_in_one_line() -> None:
    content = {"start": "2026-01-01", "versions": {"a": "1", "torch": "2.4"}, **A100, "git": {"toolkit": COMMIT}}
    assert describe_invocation(content) == (
        "2026-01-01, device 2 x A100, driver 550.54, torch 2.4, commit of the toolkit 0123456789"
    )


def test_commands_that_read_a_run_say_that_its_versions_differ(
    mapping: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(load_config(mapping()), tmp_path)
    run(load_config(mapping(grid={"shots": [2, 1]})), tmp_path)
    folder = tmp_path / "t"
    assert view_run(load_run(folder)).mixed_versions == ""
    lines = [json.loads(line) for line in invocations_file(Store(folder)).read_text().splitlines()]
    record(Store(folder), *({**line, "versions": {**line["versions"], "torch": f"9.{line['id']}"}} for line in lines))
    says = "torch 9.1 (6 samples) and 9.2 (6 samples)"
    main(["report", str(folder)])
    assert says in (folder / "report.html").read_text()
    capsys.readouterr()
    for words in (("compare", "--to", "shots=2"), ("show", "sample", "--arm", "shots=1")):
        main([words[0], str(folder), *words[1:]])
        captured = capsys.readouterr()
        assert says in " ".join((captured.out + captured.err).split()), words
    assert "computed by process 2: " in captured.out
    assert "torch 9.2" in captured.out.split("computed by process 2: ")[1].splitlines()[0]


def test_a_run_without_numbers_of_processes_is_read(tmp_path: Path) -> None:
    assert view_run(write_run(tmp_path / "r", queries=4)).mixed_versions == ""
