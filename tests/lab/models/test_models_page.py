"""The page of models: verdicts that can fail, a sentence for every exception, and the shipped page."""

import os
from pathlib import Path

import pytest

from lab.architectures.run import check_subjects
from lab.architectures.verdicts import Entry, Verdict
from lab.models.page import COLUMNS, NEEDED, NOT_RUN, caveats, verdict, write_page
from lab.models.subjects import MODELS
from tests.published_templates import SHARED
from tests.random_models.twins.twin import twins

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
VLLM = ("ids", "vllm", "lockstep")
HF = tuple(column for column in COLUMNS if column not in VLLM)
SAMPLE = ("qwen2_5_vl", "pixtral", "idefics", "deepseek_vl2")
"""A penalty, any resolution, no template, code of its own. `ICL_MODELS=all` checks all."""
CHECKED = MODELS.names if os.environ.get("ICL_MODELS") == "all" else SAMPLE
IN_VLLM = MODELS.names if os.environ.get("ICL_MODELS") == "all" else ("pixtral", "idefics")
OTHER = Path(os.environ.get("VLLM_ENV", Path(__file__).parents[3] / ".venv-vllm")) / "bin" / "python"
WHOLE = Entry("llava1_5", "Llava", dict.fromkeys(COLUMNS, Verdict("yes")))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results: the checks of vLLM continue from those of the backend `hf`."""
    return tmp_path_factory.mktemp("models")


def checked(name: str, work: Path, vllm: Path | None = None) -> Entry:
    entries = check_subjects(MODELS, [name], work, vllm=vllm)
    return next(entry for entry in entries if entry.name == name)


def words(entry: Entry, columns: tuple[str, ...]) -> dict[str, str]:
    return {column: entry.verdicts.get(column, NOT_RUN).word for column in columns}


def shipped_words(name: str, columns: tuple[str, ...]) -> dict[str, str]:
    shipped = dict(zip(COLUMNS, shipped_rows()[name][3:], strict=True))
    return {column: shipped[column] for column in columns}


def shipped_rows() -> dict[str, list[str]]:
    """For each twin of the page, its other cells."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip("* ") for cell in line.strip("| \n").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in cells[2:]}


@pytest.mark.skipif(not SHARED.is_dir(), reason="PUBLISHED_TEMPLATES names no folder of chat templates")
@pytest.mark.parametrize("name", CHECKED)
def test_the_shipped_page_says_what_the_checks_of_a_twin_find(name: str, work: Path) -> None:
    entry = checked(name, work)
    assert words(entry, HF) == shipped_words(name, HF), entry


@pytest.mark.skipif(not SHARED.is_dir(), reason="PUBLISHED_TEMPLATES names no folder of chat templates")
@pytest.mark.skipif(not OTHER.is_file(), reason="needs the environment that tests/vllm_env.sh makes (VLLM_ENV)")
@pytest.mark.parametrize("name", IN_VLLM)
def test_the_shipped_page_says_what_vllm_does_with_a_twin(name: str, work: Path) -> None:
    entry = checked(name, work, vllm=OTHER)
    assert words(entry, VLLM) == shipped_words(name, VLLM), entry


def test_the_shipped_page_has_every_twin_and_a_sentence_for_every_exception() -> None:
    rows, text = shipped_rows(), PAGE.read_text("utf-8")
    assert tuple(rows) == MODELS.names
    for name, cells in rows.items():
        assert (cells[2] == "yes") == (f"- **{name}**: " not in text)
        assert cells[2] == "no" or cells[3 : 3 + len(NEEDED)] == ["yes"] * len(NEEDED)


def test_the_shipped_page_has_a_cause_for_every_difference_from_the_backend_hf() -> None:
    text = PAGE.read_text("utf-8")
    names = {line.split("**")[1] for line in text.splitlines() if " differs at token " in line}
    assert [name for name in names if f"**{name}**: {twins()[name].cause or '?'}\n" not in text] == []


def test_a_model_without_exceptions_runs_as_its_authors_run_it() -> None:
    assert (verdict(WHOLE), list(caveats(WHOLE))) == ("yes", [])
    assert verdict(Entry("llava1_5", "Llava", WHOLE.verdicts, notes=("the image cache is off",))) == "caveat"
    off = WHOLE.with_verdicts({"vllm": Verdict("no", "KeyError: x"), "lockstep": Verdict("no", "KeyError: x")})
    assert (verdict(off), list(caveats(off))) == ("caveat", ["vLLM, VCD in vLLM: KeyError: x"])
    other = WHOLE.with_verdicts({"answers": Verdict("no", "prompt 0 differs")})
    refused = Entry("deepseek_vl2", "", notes=("/tmp/x brings its own Python code",))
    assert [verdict(one) for one in (other, refused)] == ["no", "no"]
    page = write_page([off, refused])
    assert "| llava1_5 | llava-hf/llava-1.5-7b-hf | " in page
    assert "- **deepseek_vl2**: x brings its own Python code" in page
