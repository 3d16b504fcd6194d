import shutil
from collections.abc import Callable
from os import terminal_size
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.ls import component_page, examples, kind_of, wrap_text
from experiments.config.config import load_config
from experiments.config.keys import COMPONENT_KINDS
from experiments.config.yaml_document import parse_yaml, to_flow_yaml
from icl.parameter_docs import parameter_docs
from icl.registry import PACKAGES, build, entries, resolve

ICL = Callable[..., Any]
OF = {**COMPONENT_KINDS, "metrics": "metric"}
ALL = [(kind, name) for kind in PACKAGES for name in entries(kind)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: terminal_size((80, 24)))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("word", ["strategy", "strategies", "decoding"])
def test_a_kind_is_named_by_its_name_its_plural_and_its_config_key(icl: ICL, word: str) -> None:
    lines = icl("ls", word).out.partition("\n\n")[0].splitlines()
    names = [line.split()[0] for line in lines if not line.startswith("   ")]
    assert names == [name for name, one in entries("strategy").items() if not one.is_reconstruction]
    assert any(line.split()[0] == "vcd" and "noised image" in line for line in lines)


def test_reconstructions_are_named_apart_and_shown_by_name(icl: ICL) -> None:
    listed, _, last = icl("ls", "interventions").out.partition("reconstructions from abstracts: ")
    assert "  dara " not in listed
    assert last.startswith("context_vectors, dara, m2iv\n")
    assert icl("ls", "intervention", "dara").status == 0


def test_all_kinds_are_listed_with_a_hint(icl: ICL) -> None:
    output = icl("ls").out
    assert [line for line in output.splitlines() if line and line[0] not in " `"] == list(PACKAGES)
    assert output.endswith("`icl ls KIND NAME`, such as `icl ls strategy vcd`, shows one with its parameters.\n")


def test_the_list_of_models_shows_the_abilities_of_each_class(icl: ICL) -> None:
    lines = icl("ls", "models").out.partition("The columns")[2].splitlines()[2:]
    rows = {
        line.split()[0]: line.split()[1:] for line in lines if line[:3].strip() and "`" not in line and ":" not in line
    }
    assert rows["model"] == ["generate", "logits", "score", "strategies", "hidden_states", "adapters", "quantized"]
    assert rows["hf"] == ["yes"] * 7
    assert "  quantized, hf: nf4, fp4, int8, the checkpoint's own (gptq, awq, compressed-tensors, …)" in lines
    assert rows["remote"] == ["yes", "-", "yes", "served", "-", "served", "-"]
    assert rows["vllm"][:4] == ["yes", "-", "yes", "yes"]
    assert set(rows) == {"model", *entries("model")}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("stratgies",), "no component or kind of component named 'stratgies'. Did you mean 'strategies'?"),
        (("vdc",), "no component or kind of component named 'vdc'. Did you mean 'vcd'?"),
        (("decodin", "vcd"), "no kind of component named 'decodin'."),
        (("decoding", "vdc"), "no strategy named 'vdc'. Did you mean 'vcd'? (icl ls strategy)"),
        (("decoding", "vcdd"), "no strategy named 'vcdd'. Did you mean 'vcd'? (icl ls strategy)"),
        (("random",), "'random' is the name of a retriever and of an orderer. Say which: icl ls retriever random."),
    ],
)
def test_an_unknown_or_ambiguous_word_is_reported(icl: ICL, words: tuple[str, ...], sentence: str) -> None:
    output = icl("ls", *words)
    assert (output.status, output.out) == (2, "")
    assert output.err.startswith(sentence)


def test_a_page_has_paper_parameters_bounds_defaults_comments_presets_and_lines_to_copy(icl: ICL) -> None:
    output = icl("ls", "decoding", "vcd").out
    for piece in (
        "Leng et al., CVPR 2024",
        "  beta        number from 0 to 1; default 0.1\n              minimal probability relative to the",
        "  noise_step  integer from 0 to 999; default 500\n",
        "  images      query or all; default query\n",
        "  paper       alpha: 1.0, beta: 0.1, noise_step: 999\n",
        "  decoding: {name: vcd, preset: cd_rethink}\n",
    ):
        assert piece in output, piece
    assert icl("ls", "vcd").out == output


def test_a_page_starts_with_the_description_and_requires_nothing_that_a_preset_sets(icl: ICL) -> None:
    output = icl("ls", "decoding", "vcd").out
    assert output.index("Leng et al.") < output.index("Presets. released")
    hub = icl("ls", "task", "hub").out
    assert "  task: {name: hub, preset: vqav2}\n" in hub
    assert "required, here or in a preset" in hub


def test_a_custom_component_has_a_page(icl: ICL, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '"""Mine, from nowhere."""\n\nfrom dataclasses import dataclass, field\n\nfrom decoding import Strategy\n\n\n'
        "@dataclass(frozen=True)\nclass Mine(Strategy):\n    factor: float = 2.5  # how much of it,\n"
        "    # in bits\n    words: tuple[str, ...] = field(default=())\n"
    )
    output = icl("ls", "mine.py:Mine").out
    assert "factor  number; default 2.5\n          how much of it, in bits\n" in output
    assert "words   list of strings; default []\n" in output
    assert "decoding: {name: 'mine.py:Mine', factor: 2.5, words: []}" in output.replace('"', "'")


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_parameter_has_a_meaning_and_every_page_fits_80_columns(kind: str, name: str) -> None:
    assert [one.key for one in parameter_docs(resolve(kind, name)) if not one.meaning] == []
    assert [line for line in component_page(kind, name, 80) if len(line) > 80] == []


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_the_lines_of_a_page_are_lines_of_a_config(kind: str, name: str) -> None:
    cls = resolve(kind, name)
    for line in examples(kind, name, parameter_docs(cls), getattr(cls, "presets", {})):
        parsed = parse_yaml(line, "line")[0]
        if "<" not in line:  # what only its author knows: a path, an address
            load_config({"task": "binding", "model": "fake-vote", **parsed})
            key, node = next(iter(parsed.items()))
            for each in node if isinstance(node, list) else [node]:
                build({"launcher": "launcher", "observe": "observer"}.get(key) or OF.get(key, "retriever"), each)


def test_the_default_on_a_page_is_the_default() -> None:
    for kind, name in ALL:
        parameters = parameter_docs(resolve(kind, name))
        if not any(one.required for one in parameters):
            defaults = {one.key: parse_yaml(to_flow_yaml(one.default), one.key)[0] for one in parameters}
            assert build(kind, {"name": name, **defaults}) == build(kind, name), (kind, name)


def test_text_and_items_are_wrapped_and_formulas_are_not() -> None:
    text = "One two three four.\n\n    a = b   c\n\n1. First item that\n   goes on.\n2. Second."
    assert list(wrap_text(text, 14)) == [
        "One two three",
        "four.",
        "",
        "    a = b   c",
        "",
        "1. First item",
        "   that goes",
        "   on.",
        "2. Second.",
    ]


def test_rows_of_a_formula_that_are_too_long_are_wrapped_below_their_text() -> None:
    text = "Rows.\n\n    phi_j    = the product of all w\n    cover    objects that are named"
    assert list(wrap_text(text, 26))[2:] == [
        "    phi_j    = the product",
        "             of all w",
        "    cover    objects that",
        "             are named",
    ]


def test_a_page_has_the_details_of_its_component_and_not_of_others_in_the_file() -> None:
    def page(name: str) -> str:
        return "\n".join(component_page("metric", name, 100))

    assert "AMBER's scores of descriptions" in page("amber_hal")
    assert "AMBER's scores of descriptions" not in page("chair_i")
    assert "Guan et al." in page("question_accuracy")
    assert "Guan et al." not in page("mme")
    assert "Papineni" in page("bleu_3")
    assert all(page(name).count("Differs from the released code") == 1 for name in ("amber_cog", "naturalbench"))


def test_every_word_for_a_kind_is_understood_with_an_s_and_without(icl: ICL) -> None:
    """A key of an experiment file, a kind, and their plurals."""
    for key, kind in OF.items():
        for word in (key, f"{key.removesuffix('s')}s", kind, kind.replace("gy", "gie") + "s"):
            assert kind_of(word) == kind, word
    assert icl("ls", "decodings").out == icl("ls", "decoding").out.replace("icl ls decoding ", "icl ls decodings ")


def test_the_page_of_contrast_lists_what_a_branch_may_change(icl: ICL) -> None:
    from decoding.branch import CHANGES

    output = " ".join(icl("ls", "decoding", "contrast").out.partition("Parameters")[2].split())
    listed = output.partition("change: none,")[2].partition(" weights ")[0]
    assert all(name in listed for name in (*CHANGES, *entries("edit")) if name != "none")
    assert "instruction (with text)" in listed
    assert "an edit of the images (icl ls edit): blank, blur," in listed
