"""A run directory and a log have files that are no files, links, formulas and markup. Commands pass none of them on."""

import base64
import io
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image as PILImage
from strangers import edit_json
from written_run import write_run

from experiments.cli.main import main
from experiments.imports.formats import inspect_ai
from experiments.results.loaded_run import load_run
from experiments.sharing.push import copy_scrubbed
from experiments.stats.formatting import markdown_text
from experiments.store.store import csv_text
from icl.errors import DataError, StoreError

Receive = Callable[..., Path]


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def copied(folder: Path, target: Path) -> dict[str, bytes]:
    """The files that `icl push --images` takes from a run."""
    copy_scrubbed(load_run(folder), target, images=True)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_a_push_copies_the_images_that_samples_name_and_nothing_else(received: Receive, tmp_path: Path) -> None:
    folder = received(model={"name": "remote", "url": "http://a.example/v1", "model": "m", "key_env": "MY_KEY"})
    named = {path.name for path in (folder / "images").iterdir()}
    assert named
    PILImage.new("RGB", (4, 4)).save(folder / "images" / "private.png")
    (folder / "images" / "id_rsa").write_text("secret")
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "sub" / "private.json").write_text("secret")
    (folder / "looks" / "family-0").mkdir(parents=True)
    (folder / "looks" / "family-0" / "plan.json").write_text("{}")
    (folder / "looks" / "family-0" / "private.json").write_text('{"a": "secret"}')
    edit_json(folder / "run.json", lambda run: run.update(extra={"env": {"TOKEN": "secret"}}))
    edit_json(folder / "run.json", lambda run: run["config"].update(notes="secret"))
    files = copied(folder, tmp_path / "copy")
    assert {Path(name).name for name in files if name.startswith("images/")} == named
    for word in (b"secret", b"MY_KEY", b"key_env"):
        assert [name for name, content in files.items() if word in content] == []
    assert load_run(tmp_path / "copy").config["model"] == {"name": "remote", "url": "http://a.example/v1", "model": "m"}


@pytest.mark.parametrize(
    "place", ["images/link.png", "cells/{cell}/9.jsonl", "looks/family-0/look-001.json", "analyses/a.json"]
)
def test_a_push_refuses_links(place: str, received: Receive, tmp_path: Path) -> None:
    folder = received()
    secret = tmp_path / "secret.json"
    secret.write_text('{"token": "secret"}')
    link = folder / place.format(cell=next((folder / "cells").iterdir()).name)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(secret)
    with pytest.raises(StoreError, match=r"is a link, and only files of the run are pushed\. Replace it by a copy\."):
        copied(folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ["run.json", "invocations.jsonl", "cells", "images"])
def test_a_push_refuses_a_file_or_a_folder_of_the_run_that_is_itself_a_link(
    name: str, received: Receive, tmp_path: Path
) -> None:
    folder = received()
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(StoreError, match=r"is a link, and only files of the run are pushed"):
        copied(folder, tmp_path / "copy")


@pytest.mark.parametrize("is_link", [True, False])
def test_a_report_shows_no_image_from_outside_the_run(
    is_link: bool, received: Receive, honest_run: Path, tmp_path: Path
) -> None:
    folder = received()
    PILImage.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "private.png")
    secret = base64.b64encode((tmp_path / "private.png").read_bytes()).decode()
    for path in folder.glob("cells/*/0.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        digest = "abcdef" if is_link else "../../private"
        changed = [line | {"images": [digest], "image_of": [-1]} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    (folder / "images" / "abcdef.png").symlink_to(tmp_path / "private.png")
    assert main(["report", str(folder)]) == 0
    assert secret not in (folder / "report.html").read_text()
    assert main(["import", str(tmp_path / "merged"), str(folder), str(honest_run)]) == 0
    assert not (tmp_path / "merged" / "images" / "abcdef.png").exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("report.html", ("report",)),
        ("tables", ("report",)),
        ("tables/scores.csv", ("report",)),
        ("figures", ("report",)),
        ("figures/scores.svg", ("report",)),
        ("card.md", ("report", "--as", "card")),
        ("analyses", ("analyze", "vote")),
    ],
)
def test_a_command_that_reads_a_run_writes_no_file_outside_it(
    place: str, words: tuple[str, ...], received: Receive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mine = received(), tmp_path / "mine"
    link = folder / place
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.suffix:
        mine.write_text("mine")
    else:
        mine.mkdir()
    link.symlink_to(mine)
    main([words[0], str(folder), *words[1:]])
    assert mine.read_text() == "mine" if link.suffix else list(mine.iterdir()) == []
    assert f"{link} is a link, and only files of the run are written. Remove it." in capsys.readouterr().err


def test_the_temporary_file_of_a_command_is_not_a_link_of_somebody_else(received: Receive, tmp_path: Path) -> None:
    folder, mine = received(), tmp_path / "mine"
    mine.write_text("mine")
    (folder / f".report.html.{os.getpid()}.part").symlink_to(mine)
    assert main(["report", str(folder)]) == 0
    assert mine.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes of this kind")
@pytest.mark.parametrize("words", [("report",), ("ls", "runs"), ("show", "scores"), ("show", "progress")])
def test_a_pipe_in_the_place_of_samples_does_not_stop_a_command(words: tuple[str, ...], received: Receive) -> None:
    folder = received()
    cell = next((folder / "cells").iterdir())
    os.mkfifo(cell / "1.jsonl")
    (cell / "2.jsonl").symlink_to("/dev/zero")
    (cell / ".samples.parquet").unlink(missing_ok=True)
    os.mkfifo(cell / ".samples.parquet")
    with time_limit(60):
        assert main(["ls", "runs", str(folder)] if words[0] == "ls" else [words[0], str(folder), *words[1:]]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes of this kind")
@pytest.mark.parametrize("place", ["cells/{cell}/cell.json", "invocations.jsonl", "card.json"])
def test_a_pipe_in_the_place_of_a_file_does_not_stop_a_command(
    place: str, received: Receive, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = received()
    path = folder / place.format(cell=next((folder / "cells").iterdir()).name)
    path.unlink()
    os.mkfifo(path)
    with time_limit(60):
        assert main(["check", str(folder)]) == 2
    assert str(path) in capsys.readouterr().err


def test_folders_and_images_of_odd_names_do_not_stop_a_command(received: Receive) -> None:
    folder = received()
    for name in ("family-x", "family-", "family-\N{SUPERSCRIPT TWO}"):
        (folder / "looks" / name).mkdir(parents=True)
        (folder / "looks" / name / "plan.json").write_text("{}")
    for path in folder.glob("cells/*/0.jsonl"):
        lines = [json.loads(line) | {"images": ["a" * 400, "\0"]} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for words in ("report FOLDER", "show FOLDER", "show FOLDER sample", "ls runs FOLDER"):
        assert main(words.replace("FOLDER", str(folder)).split()) == 0


def test_a_text_that_is_a_formula_is_a_text_in_a_csv_file() -> None:
    texts = ["=HYPERLINK(1)", "+1+1", "-1+cmd", "@SUM(A1)", "\t=1", "-0.5", "+.250", "-", "plain"]
    frame = pd.DataFrame({"=label": texts, "number": [-1.5] * len(texts)})
    read = pd.read_csv(io.StringIO(csv_text(frame)), dtype={"'=label": str})
    safe = [f"'{text}" for text in texts[:5]] + ["-0.5", "+.250", "'-", "plain"]
    assert read["'=label"].tolist() == safe
    assert read["number"].tolist() == [-1.5] * len(texts)


def test_the_tables_of_a_run_have_no_formula_and_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", queries=4, tasks=("=cmd|x", "<img src=x onerror=y>"), seeds=(0,)).path
    assert main(["report", str(folder)]) == 0
    tables = [path.read_text() for path in (folder / "tables").glob("*.csv")]
    assert any("'=cmd" in text for text in tables)
    assert not any(line.startswith("=") or ",=" in line for text in tables for line in text.splitlines())
    capsys.readouterr()
    for form in ("csv", "markdown"):
        assert main(["show", str(folder), "scores", "--as", form]) == 0
        text = capsys.readouterr().out
        assert (form, "\n=cmd" in text, form == "markdown" and "<img" in text) == (form, False, False)
    assert markdown_text("<img>&a|b") == "&lt;img&gt;&amp;a\\|b"


def test_a_log_with_a_member_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "2026_a_b.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("header.json", json.dumps({"eval": {"task": "a"}}))
        with archive.open("samples/1_epoch_1.json", "w") as member:
            for _ in range(201):
                member.write(b" " * 1_000_000)
    with time_limit(30), pytest.raises(DataError, match=r"samples/1_epoch_1\.json has 201,000,000 bytes, more than"):
        inspect_ai.read(path)


def test_a_name_that_turns_the_direction_of_text_is_not_echoed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "custom_generate", "vcd", "--to", str(tmp_path / "a\u202eb\x1b[2J")]) == 0
    printed = "".join(capsys.readouterr())
    assert "wrote" in printed
    assert not {"\u202e", "\x1b"} & set(printed)
