"""`icl export FORMAT COMPONENT --to FOLDER`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from decoding.interventions.vector_file import write_vector_file

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
        (("custom_generate", "{name: vcd"), "COMPONENT"),
        (("control_vector", "vcd"), "no intervention named 'vcd'."),
        (("easysteer", "v.safetensors"), "fitted: there is no file v.safetensors (looked in"),
    ):
        outcome = icl("export", *words, "--to", "out")
        assert outcome.status == 2
        assert sentence in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_file_of_vectors_names_its_method(icl: ICL, tmp_path: Path) -> None:
    states = torch.ones(3, 8)
    write_vector_file(
        tmp_path / "v.safetensors",
        "task_vector",
        tensors={"states": states, "states.zero_shot": 0 * states},
        parameters={"layer": 1, "how": "add"},
        record={},
        report={},
    )
    assert icl("export", "easysteer", "v.safetensors", "--to", "v").status == 0
    assert {path.name for path in (tmp_path / "v").iterdir()} == {"vector.gguf", "steering.json"}
    outcome = icl("export", "control_vector", "v.safetensors", "--to", "w")
    assert outcome.status == 2
    assert "task_vector cannot be exported as control_vector: llama.cpp adds a vector at every token" in outcome.err
    assert not (tmp_path / "w").exists()
