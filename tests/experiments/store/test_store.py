import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd
import pytest

from experiments.api import run
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.store.store import _TYPES, SampleWriter, Store, parse_line, serialize_sample, truncate_partial_line
from icl.errors import StoreError
from icl.types import Sample


def sample(query: str, **more: object) -> Sample:
    return Sample(cell="c", query=query, seed=0, **{"output": "a", **more})  # type: ignore[arg-type]


def lines(store: Store) -> Path:
    return store.cell_folder("c") / "0.jsonl"


def write(store: Store, *samples: Sample) -> None:
    with SampleWriter(store) as writer:
        for one in samples:
            writer.append("c", [one])


def test_a_sample_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    writer = SampleWriter(store)
    writer.append("c", [sample("q1")])
    assert [line["query"] for line in store.samples("c")] == ["q1"]
    writer.close()


def test_a_line_keeps_everything_that_is_not_empty(tmp_path: Path) -> None:
    one = sample("q1", scores={"strict": 0.0}, demos=(("d", 0.5, "x"),), gold=("é",), trace={"p": (0.1,)})
    write(Store(tmp_path), one)
    (line,) = Store(tmp_path).samples("c")
    assert line == {
        "cell": "c",
        "query": "q1",
        "seed": 0,
        "gold": ["é"],
        "demos": [["d", 0.5, "x"]],
        "output": "a",
        "scores": {"strict": 0.0},
        "trace": {"p": [0.1]},
    }


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_half_a_last_line_is_not_counted_and_is_cut_off_before_the_next(tmp_path: Path, cut: int) -> None:
    store = Store(tmp_path)
    write(store, sample("q1"), sample("q2"))
    data = lines(store).read_bytes()
    lines(store).write_bytes(data[:-cut])
    finished, _ = store.finished_and_failed("c")
    write(store, sample("q3"))
    whole = cut == 1  # only the end of the line is missing: the sample itself is whole
    assert finished == ({"q1", "q2"} if whole else {"q1"})
    assert store.finished_and_failed("c")[0] == finished | {"q3"}
    assert all(json.loads(line) for line in lines(store).read_text().splitlines())


def test_a_query_counts_once_and_success_counts_over_failure(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, sample("q1", failed="broken", output=""), sample("q2"), sample("q1"), sample("q2", output="late"))
    assert store.finished_and_failed("c") == ({"q1", "q2"}, {})
    assert {line["query"]: line["output"] for line in store.samples("c")} == {"q1": "a", "q2": "a"}


def test_a_failed_sample_has_its_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, sample("q1", failed="broken", output=""))
    assert store.finished_and_failed("c") == (set(), {"q1": "broken"})
    write(store, sample("q1", failed="broken otherwise", output=""))
    assert store.finished_and_failed("c") == (set(), {"q1": "broken otherwise"})
    assert [line["failed"] for line in store.samples("c")] == ["broken otherwise"], "the reason that the run has told"


def test_lines_of_several_workers_are_one_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for worker, query in (("0", "q1"), ("b", "q2"), ("c", "q1")):
        with SampleWriter(store, worker) as writer:
            writer.append("c", [sample(query)])
    assert sorted(line["query"] for line in store.samples("c")) == ["q1", "q2"]


def test_a_garbled_line_in_the_middle_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, sample("q1"), sample("q2"))
    data = lines(store).read_bytes().splitlines(keepends=True)
    lines(store).write_bytes(data[0] + b"\x00\x00\x00\n" + b"[1]\n" + data[1])
    assert store.finished_and_failed("c")[0] == {"q1", "q2"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"query": "q9"}',
        b'{"query": "q9", "cell": "c", "seed": "0"}',
        b'{"query": "q9", "cell": "c", "seed": 0, "scores": 5}',
        b'{"query": "q9", "cell": "c", "seed": 0, "scores": {"strict": "x"}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_line_that_no_run_wrote_counts_for_nothing(tmp_path: Path, line: bytes) -> None:
    store = Store(tmp_path)
    write(store, sample("q1"))
    lines(store).write_bytes(line + b"\n" + lines(store).read_bytes())
    assert store.finished_and_failed("c")[0] == {"q1"}


def test_a_line_of_another_cell_counts_for_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, sample("q1"))
    with lines(store).open("ab") as file:
        file.write(serialize_sample(Sample(cell="other", query="q2", seed=0, output="b")))
    assert store.finished_and_failed("c")[0] == {"q1"}
    assert [line["query"] for line in store.samples("c")] == ["q1"]


@pytest.mark.parametrize(
    ("left", "count"),
    [
        (b"", 0),  # an empty file
        (b'{"cell": "c", "que', 0),  # the first line is the half one
        (b'{"cell": "c", "query": "q8", "seed": 0}', 1),  # a whole sample that lacks the end of its line
        (b"\x00" * 4096, 0),  # what some file systems leave after a power cut
        ('{"cell": "c", "query": "é'.encode()[:-1], 0),  # half a letter
        (b'{"cell": "c", "query": "q8", "seed": 0}\n\n{"ce', 1),
    ],
)
def test_what_a_cut_left_is_gone_when_the_next_sample_is_written(tmp_path: Path, left: bytes, count: int) -> None:
    store = Store(tmp_path)
    lines(store).parent.mkdir(parents=True)
    lines(store).write_bytes(left)
    assert len(list(store.samples("c"))) == count
    write(store, sample("q1"))
    assert len(list(store.samples("c"))) == count + 1
    assert all(json.loads(line) for line in lines(store).read_text().splitlines() if line)
    assert lines(store).read_bytes().endswith(serialize_sample(sample("q1")))


def test_another_workers_half_line_is_left_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, sample("q1"))
    other = store.cell_folder("c") / "b.jsonl"
    other.write_bytes(b'{"cell": "c", "que')
    write(store, sample("q2"))
    assert other.read_bytes() == b'{"cell": "c", "que'
    assert store.finished_and_failed("c")[0] == {"q1", "q2"}


@pytest.mark.parametrize("query", ["a\nb", "\u2028", "\x1e", '"', "\\"])
def test_a_sample_is_one_line_whatever_is_in_it(tmp_path: Path, query: str) -> None:
    store = Store(tmp_path)
    write(store, sample(query, output=query), sample("q2"))
    assert lines(store).read_bytes().count(b"\n") == 2
    assert store.finished_and_failed("c")[0] == {query, "q2"}


def test_half_of_a_surrogate_pair_in_an_answer_loses_no_sample(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, Sample(cell="c", query="q1", seed=0, output="a\ud800b"))
    assert [line["output"] for line in store.samples("c")] == ["a?b"]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lines(store).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"0\.jsonl cannot be read: Is a directory\."):
        store.finished_and_failed("c")


def test_more_cells_than_open_files_are_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with SampleWriter(store) as writer:
        for turn in range(2):
            for i in range(200):
                writer.append(f"c{i}", [Sample(cell=f"c{i}", query=f"q{turn}", seed=0)])
    assert all(len(store.finished_and_failed(f"c{i}")[0]) == 2 for i in range(200))


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    store = Store(tmp_path)
    store.cell_folder("c").mkdir(parents=True)
    lines(store).symlink_to(full)
    with pytest.raises(
        StoreError, match=r"cannot be written: No space left on device. Finished samples are stored\. Free"
    ):
        write(store, sample("q1"))


def test_a_damaged_run_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StoreError, match=r"run.json is damaged .* Remove it and run the same command"):
        Store(tmp_path).read_run()


def test_samples_written_anew_replace_those_of_every_worker(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for worker in ("0", "1"):
        with SampleWriter(store, worker) as writer:
            writer.append("c", [sample(f"q{worker}")])
    anew = [{**line, "output": "é"} for line in store.samples("c")]
    store.replace_samples("c", anew)
    assert list(store.samples("c")) == anew
    assert [path.name for path in store.cell_folder("c").iterdir()] == ["0.jsonl"]


def test_there_is_nothing_to_repair_in_no_file_and_an_empty_one(tmp_path: Path) -> None:
    assert not truncate_partial_line(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    assert not truncate_partial_line(tmp_path / "empty.jsonl")


def test_repair_leaves_a_whole_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"query": "a"}\n')
    assert not truncate_partial_line(path)
    assert path.read_bytes() == b'{"query": "a"}\n'


@pytest.mark.parametrize(
    ("content", "repaired"),
    [
        (b'{"a": 1}\n{"b"', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}', b'{"a": 1}\n'),
        (b'{"a"', b""),
    ],
)
def test_repair_changes_the_last_line_alone(tmp_path: Path, content: bytes, repaired: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert truncate_partial_line(path, lambda line: line.endswith(b"}") and line.startswith(b"{"))
    assert path.read_bytes() == repaired


def test_json_is_replaced_in_one_step_and_leaves_no_part_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_run({"name": "a"})
    store.write_run({"name": "b"})
    assert store.read_run() == {"name": "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


DAMAGES = {
    "cut": lambda line: line[: len(line) // 2],
    "nothing": lambda line: "\x00\x01",
    "score": lambda line: json.dumps({**json.loads(line), "scores": {"lenient": 5}}),
    "nan": lambda line: json.dumps({**json.loads(line), "scores": {"lenient": float("nan")}}),
    "demos": lambda line: json.dumps({**json.loads(line), "demos": 5}),
    "demo": lambda line: json.dumps({**json.loads(line), "demos": [["p-0000"]]}),
    "usage": lambda line: json.dumps({**json.loads(line), "usage": []}),
    "seed": lambda line: json.dumps({**json.loads(line), "seed": 7}),
    "cell": lambda line: json.dumps({**json.loads(line), "cell": "0" * 16}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_skipped_reported_and_computed_again(
    mapping: Any, tmp_path: Path, damage: str, capsys: Any
) -> None:
    config = mapping(grid={"shots": [0, 2]})
    before = run(config, runs=tmp_path, quiet=True).samples()
    path = next(tmp_path.glob("t/cells/*/0.jsonl"))
    lines = path.read_text().splitlines()
    lines[2] = DAMAGES[damage](lines[2])
    path.write_text("".join(f"{line}\n" for line in lines))
    view_run(load_run(tmp_path / "t"))  # reads as if it were not there
    assert len(load_run(tmp_path / "t").samples()) == len(before) - 1
    again = run(config, runs=tmp_path)
    err = capsys.readouterr().err.replace("\n", "")
    assert f"line 3 of {path} is not a complete sample of its cell" in err
    keys = ["cell", "seed", "query"]
    pd.testing.assert_frame_equal(
        *(
            frame.sort_values(keys).reset_index(drop=True)[[*keys, "output", "lenient"]]
            for frame in (before, again.samples())
        )
    )


def test_of_two_lines_of_one_query_the_first_that_has_an_answer_counts(mapping: Any, tmp_path: Path) -> None:
    before = run(mapping(), runs=tmp_path, quiet=True).samples()
    path = next(tmp_path.glob("t/cells/*/0.jsonl"))
    first = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(
            json.dumps({**first, "output": "another", "scores": {"lenient": 1 - first["scores"]["lenient"]}}) + "\n"
        )
    pd.testing.assert_frame_equal(load_run(tmp_path / "t").samples(), before)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("", r"has no format number; this version reads format 2\. Version 0\.1 wrote it, .* under another name "),
        ('"format": 1,', r"has format 1; this version reads format 2\. Version 0\.1 wrote it, .* under another name "),
        ('"format": true,', r"has format True; this version reads format 2\."),
        ('"format": 3,', r"has format 3, which a newer version of mm-icl wrote\. This .* format 2\. Update mm-icl\.$"),
    ],
)
def test_files_of_another_format_are_refused_with_what_to_do(tmp_path: Path, number: str, says: str) -> None:
    store = Store(tmp_path)
    store.write_run({"cells": ["d"]})
    store.write_cell("d", {"labels": {"shots": 0}})
    for path, read in (
        (store.run_file, store.read_run),
        (tmp_path / "cells/d/cell.json", lambda: store.read_cell("d")),
    ):
        before = read()
        assert "format" not in (before or {})
        path.write_text(path.read_text().replace('"format": 2,', number))
        with pytest.raises(StoreError, match=rf"{path.name} {says}"):
            read()


def test_the_number_of_the_process_must_be_an_integer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, sample("q1"))
    line = lines(store).read_text()
    for damaged in ('"invocation": "1"', '"dropped": true', '"scores_invocation": 1.5'):
        lines(store).write_text(line.replace('"seed"', f'{damaged}, "seed"'))
        assert list(store.samples("c")) == []


def test_every_field_has_the_type_that_its_values_have_in_a_line() -> None:
    """A list for a tuple, a mapping for a mapping; a text may be missing."""
    shapes = {tuple: list, Mapping: dict, int: int, str: str}
    for name, hint in get_type_hints(Sample).items():
        members = set(get_args(hint)) if get_origin(hint) is UnionType else {get_origin(hint) or hint}
        (kind,) = members - {type(None)}
        assert _TYPES[name] is shapes[kind], name


@pytest.mark.parametrize(
    ("score", "is_valid"),
    [
        *((score, True) for score in ("0", "1", "1.0000005", "-5e-7", "true")),
        *((score, False) for score in ("1.00001", "-1e-5", "NaN", '"1"', "null")),
    ],
)
def test_a_score_is_a_number_from_0_to_1_up_to_rounding(score: str, is_valid: bool) -> None:
    line = f'{{"cell": "c", "query": "q", "seed": 0, "scores": {{"strict": {score}}}}}'.encode()
    assert (parse_line(line) is not None) is is_valid


def test_a_fact_that_is_not_json_is_a_sentence() -> None:
    with pytest.raises(StoreError, match=r"sample 'q' cannot be stored as JSON .*set.* `icl check task` names"):
        serialize_sample(sample("q", meta={"tags": {"x"}}))
