"""Shipped experiments have names, which commands take in place of a path."""

from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.config.shipped import FOLDER, find_config, shipped_configs, summary
from icl.errors import ConfigError

NAMES = list(shipped_configs())


def test_every_file_of_the_folder_has_a_name() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} <= set(NAMES)
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loads_the_shipped_file_from_any_folder(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(shipped_configs()[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_begins_with_a_sentence(name: str) -> None:
    text = summary(shipped_configs()[name])
    assert text[-1:] in (".", "?")
    assert len(text) > 20


def test_an_existing_file_wins_over_a_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("model: fake-vote\ntask: binding\n")
    assert load_config("quickstart").base["model"] == "fake-vote"


def test_a_suffix_means_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(Path("quickstart.yaml")) == Path("quickstart.yaml")
    with pytest.raises(ConfigError, match=r"there is no file quickstart.yaml"):
        load_config("quickstart.yaml")


def test_an_unknown_name_is_a_sentence_with_the_nearest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no shipped experiment of that name. Did you mean 'quickstart'\?"):
        load_config("quickstrat")
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"Did you mean 'mine.yaml'\?"):
        load_config("mine")


def test_icl_ls_configs_lists_the_names_and_prints_a_file(capsys) -> None:
    assert main(["ls", "configs"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in f"\n{printed}" for name in NAMES)
    assert main(["ls", "configs", "quickstart"]) == 0
    assert capsys.readouterr().out == (FOLDER / "quickstart.yaml").read_text(encoding="utf-8")
