"""The sites of several versions stand beside each other, and each page leads to the others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("furo", reason="the extra docs is not installed")
VERSIONS = Path(__file__).parents[1] / "docs" / "versions.py"
CONF = 'project = "toy"\nextensions = ["myst_parser"]\nhtml_theme = "furo"\n'


def git(folder: Path, *words: str) -> None:
    options = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True)


def versions(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(VERSIONS), *words, "--repository", str(folder), "--out", str(folder / "out")]
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1 has two pages, and the branch next/x a third."""
    folder = tmp_path_factory.mktemp("toy")
    git(folder, "init")
    (folder / "docs" / "guide").mkdir(parents=True)
    (folder / "docs" / "conf.py").write_text(CONF)
    (folder / "docs" / "index.md").write_text("# First words\n\n```{toctree}\n:glob:\nguide/*\n```\n")
    (folder / "docs" / "guide" / "old.md").write_text("# Old\n")
    git(folder, "add", "docs")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "v1")
    git(folder, "checkout", "-b", "next/x")
    (folder / "docs" / "index.md").write_text("# Other words\n\n```{toctree}\n:glob:\nguide/*\n```\n")
    (folder / "docs" / "guide" / "new.md").write_text("# New\n")
    git(folder, "add", "docs")
    git(folder, "commit", "-m", "two")
    return folder


def test_each_version_has_a_folder_and_the_latest_the_root(repository: Path) -> None:
    done = versions(repository, "v1", "next/x")
    assert done.returncode == 0, done.stderr
    out = repository / "out"
    index = json.loads((out / "versions.json").read_text())
    assert index == [
        {"name": "v1", "url": "v1/", "latest": False},
        {"name": "next-x", "url": "next-x/", "latest": True},
    ]
    heads = {name: re.findall(r"<h1>(\w+)", (out / name).read_text()) for name in ("index.html", "v1/index.html")}
    assert heads == {"index.html": ["Other"], "v1/index.html": ["First"]}
    pages = json.loads((out / "versions.js").read_text().removeprefix("window.docsVersions = ").rstrip(";\n"))
    assert [name for name in pages["next-x"] if name.startswith("guide")] == ["guide/new.html", "guide/old.html"]
    assert "guide/new.html" not in pages["v1"]
    page = (out / "v1" / "guide" / "old.html").read_text()
    assert 'own = "v1", page = "guide/old.html"' in page
    assert 'root = "../" || "./"' in page
    assert page.index("sidebar-tree") < page.index("version-switcher")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["v1", "v9"], "has no tag or branch v9"),
        (["v1", "--latest", "v9"], "--latest v9 is none of the versions: v1."),
    ],
)
def test_a_version_that_is_not_there_is_a_sentence(repository: Path, words: list[str], sentence: str) -> None:
    done = versions(repository, *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = versions(tmp_path, "v1")
    assert "has other files" in done.stderr
    assert (tmp_path / "out" / "notes.txt").is_file()
