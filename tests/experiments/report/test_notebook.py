"""What a notebook shows of a run and its samples."""

from pathlib import Path
from typing import Any

import pytest

import icl
from experiments.report import notebook
from experiments.results import Run
from icl.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def run(mapping: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return icl.run(mapping(grid={"shots": [0, 2]}), runs=tmp_path_factory.mktemp("notebook"), quiet=True)


def test_a_sample_is_shown_with_the_images_of_its_prompt(run: Run, monkeypatch: Any) -> None:
    sample = run.sample("q-0001", shots=2)
    html = sample._repr_html_()
    assert html.count("<img") == 3
    assert [html.index(f">{name}<") for name, *_ in sample.row["demos"]] == sorted(
        html.index(f">{name}<") for name, *_ in sample.row["demos"]
    )
    assert f"<b>{notebook.text_html(sample.row['output'])}</b>" in html
    assert run.sample("q-0001", shots=0)._repr_html_().count("<img") == 1
    for limit, num_tags in ((3, 3), (2, 2)):
        monkeypatch.setattr(notebook, "MAX_IMAGES", limit)
        assert sample._repr_html_().count("<img") == num_tags
    assert repr(sample).startswith("q-0001")
    with pytest.raises(DataError, match="no query 'q-9'"):
        run.sample("q-9")
    with pytest.raises(ConfigError, match="no axis 'shot'"):
        run.sample(shot=2)


def test_a_run_is_its_table_of_scores_and_a_sample(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    html = run._repr_html_()
    assert "2 shots" in html
    assert "<img" in html
    monkeypatch.setattr(notebook, "MAX_SAMPLES", 11)
    large = run._repr_html_()
    assert "12 samples" in large
    assert "<table" not in large
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "run.json").write_text("{}")
    assert "has no format number" in icl.load_run(tmp_path / "u")._repr_html_()
