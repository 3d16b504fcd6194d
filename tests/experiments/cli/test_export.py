"""`icl export custom_generate STRATEGY --to FOLDER`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

ICL = Callable[..., Any]


def test_export_writes_the_file_and_the_card(icl: ICL, tmp_path: Path) -> None:
    outcome = icl("export", "custom_generate", "{name: vcd, alpha: 0.5}", "--to", "out/vcd")
    assert outcome.status == 0, outcome.err
    text = (tmp_path / "out/vcd/custom_generate/generate.py").read_text()
    assert "STRATEGY = VCD(alpha=0.5, beta=0.1)" in text
    assert (tmp_path / "out/vcd/README.md").exists()


def test_an_exported_folder_is_not_overwritten(icl: ICL, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    outcome = icl("export", "custom_generate", "vcd", "--to", ".")
    assert outcome.status == 2
    assert "README.md exists. Remove it, or choose another folder." in outcome.err
    assert (tmp_path / "README.md").read_text() == "mine"
    assert not (tmp_path / "custom_generate").exists()


def test_strategies_that_stay_and_wrong_words_are_sentences(icl: ICL, tmp_path: Path) -> None:
    for words, sentence in (
        (("custom_generate", "dola"), "dola cannot be exported for transformers: it contrasts early layers"),
        (("custom_generat", "vcd"), "no format named 'custom_generat'. Did you mean 'custom_generate'?"),
        (("custom_generate", "vcdd"), "no strategy named 'vcdd'. Did you mean 'vcd'?"),
        (("custom_generate", "{name: vcd"), "STRATEGY"),
    ):
        outcome = icl("export", *words, "--to", "out")
        assert outcome.status == 2
        assert sentence in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()
