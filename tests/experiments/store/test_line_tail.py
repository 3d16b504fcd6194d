"""Reading the new lines of a cell while its files grow, shrink and disappear."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.store.line_tail import LineTail
from experiments.store.store import Sample, serialize_sample
from icl.errors import StoreError


def _line(query: str, cell: str = "c") -> str:
    return serialize_sample(Sample(cell=cell, query=query, seed=0)).decode()


def test_each_line_is_read_once_and_a_partial_one_when_it_is_whole(tmp_path: Path) -> None:
    path, tail = tmp_path / "0.jsonl", LineTail("c")
    path.write_text(_line("a") + _line("other", cell="d") + "damaged\n" + _line("b")[:9])
    assert [[line["query"] for line in lines] for lines in tail.read([path])[:1]] == [["a"]]
    path.write_text(path.read_text() + _line("b")[9:])
    lines, replaced = tail.read([path])
    assert ([line["query"] for line in lines], replaced) == (["b"], False)
    assert tail.read([path]) == ([], False)


def test_after_a_merge_all_lines_are_read_again(tmp_path: Path) -> None:
    one, other, tail = tmp_path / "0.jsonl", tmp_path / "1.jsonl", LineTail("c")
    one.write_text(_line("a"))
    other.write_text(_line("b"))
    assert len(tail.read([one, other])[0]) == 2
    one.write_text(_line("a") + _line("b"))
    other.unlink()
    lines, replaced = tail.read([one, other])
    assert ([line["query"] for line in lines], replaced) == (["a", "b"], True)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE])
def test_a_file_that_is_merged_while_it_is_read_has_no_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "0.jsonl"
    path.write_text(_line("a"))
    monkeypatch.setattr(Path, "open", _fail(code))
    assert LineTail("c").read([path]) == ([], False)


@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "0.jsonl"
    path.write_text(_line("a"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, call, _fail(errno.EACCES))
        with pytest.raises(StoreError, match=r"0\.jsonl cannot be read: Permission denied\."):
            LineTail("c").read([path])


def _fail(code: int) -> Callable[..., None]:
    def fail(*args: object, **keywords: object) -> None:
        raise OSError(code, "Permission denied" if code == errno.EACCES else "gone")

    return fail
