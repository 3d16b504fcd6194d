"""Progress bars of libraries are hidden, except for slow steps on a terminal."""

import json
from pathlib import Path

import pytest

from icl.hub import hide_datasets_progress
from icl.tasks.source import open_source


def test_no_bar_of_datasets_is_in_the_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text = json.dumps({"question": "what?", "image": "x.png", "answer": "a"})
    (tmp_path / "a.jsonl").write_text(f"{text}\n" * 20)
    assert open_source(str(tmp_path / "a.jsonl"), None, None).columns == ["question", "image", "answer"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("quick", "terminal", "has_bar"), [(True, True, False), (False, True, True), (False, False, False)]
)
def test_slow_steps_keep_their_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, quick: bool, terminal: bool, has_bar: bool
) -> None:
    import datasets

    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    for before in (False, True):
        (datasets.enable_progress_bars if before else datasets.disable_progress_bars)()
        with hide_datasets_progress(quick):
            assert datasets.are_progress_bars_disabled() == (not (has_bar and before))
        assert datasets.are_progress_bars_disabled() == (not before)
