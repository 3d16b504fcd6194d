"""The table of architectures: verdicts that can fail, a page with every exception, and the shipped page."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icl.errors import ConfigError, DataError, ModelError
from icl.models.hf.model import HF as HF_MODEL
from lab.architectures import checks, recomputation, vllm_process
from lab.architectures.inputs import checkpoint, prompts
from lab.architectures.run import ResultsFile, check_architectures
from lab.architectures.table import COLUMNS, page
from lab.architectures.uncovered import covered_types, uncovered_types
from lab.architectures.verdicts import (
    Entry,
    ReferenceAnswers,
    Verdict,
    compare_tokens,
    read_entries,
    write_entries,
)
from tests.random_models.make import ARCHITECTURES, save

COMMAND = [sys.executable, "-m", "lab.architectures"]
OTHER = Path(os.environ.get("VLLM_ENV", Path(__file__).parents[3] / ".venv-vllm")) / "bin" / "python"
PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"
HF = tuple(column for column in COLUMNS if column not in ("vllm", "lockstep"))
SAMPLE = ("pixtral", "nemotron_h_omni", "idefics2", "mistral_large4", "mllama", "blip_2")
"""Architectures with every kind of cache. `ICL_ARCHITECTURES=all` checks all (`make test-architectures`)."""
CHECKED = tuple(ARCHITECTURES) if os.environ.get("ICL_ARCHITECTURES") == "all" else SAMPLE
MADE = Entry("made", "MadeForConditionalGeneration", dict.fromkeys(COLUMNS, Verdict("yes")))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


def shipped_rows() -> dict[str, dict[str, str]]:
    """For each architecture of the page, the word of each column."""
    cells = [line.strip("| \n").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    return {row[0]: dict(zip(COLUMNS, (word.strip("*") for word in row[2:]), strict=False)) for row in cells[2:]}


@pytest.mark.parametrize("name", CHECKED)
def test_the_shipped_page_says_what_the_checks_of_an_architecture_find(name: str, work: Path) -> None:
    entry = next(entry for entry in check_architectures([name], work).entries if entry.name == name)
    words = {column: entry.verdicts.get(column, Verdict("not run")).word for column in HF}
    assert words == {column: shipped_rows()[name][column] for column in HF}, entry
    assert entry in read_entries(work / "results.json")
    assert re.fullmatch(r"torch \S+, transformers \S+", entry.releases["hf"])
    if entry.verdicts:
        assert [len(tokens) for tokens in entry.answers["greedy"].tokens] == [12] * len(prompts())
        assert entry.answers["vcd"].tokens != entry.answers["greedy"].tokens


def test_a_checkpoint_has_the_keys_of_published_configs_too(tmp_path: Path) -> None:
    text = json.loads((save("qwen3_vl_moe", tmp_path) / "config.json").read_text("utf-8"))["text_config"]
    assert {key: text[key] for key in ("num_experts", "num_experts_per_tok", "norm_topk_prob", "hidden_size")} == {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "hidden_size": 64,
    }


def test_a_strategy_that_is_not_greedy_fails_the_identity(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.ARMS, "identity", {**checks.ARMS["vcd"], "alpha": 5.0})
    assert checks.check_hf("pixtral", checkpoint("pixtral", work / "pixtral")).verdicts["identity"].word == "no"


def test_an_architecture_that_cannot_be_loaded_has_a_reason(work: Path) -> None:
    (unloaded,) = (entry for entry in check_architectures(["blip_2"], work).entries if entry.name == "blip_2")
    assert unloaded.verdicts == {}
    assert "the forward of Blip2ForConditionalGeneration has no argument position_ids and no cache" in unloaded.notes[0]


@pytest.mark.parametrize(
    ("tokens", "word", "why"),
    [
        ([(1, 2, 3), (4, 5)], "yes", "5 of 5 tokens"),
        ([(1, 9, 9), (4, 5)], "yes", "3 of 5 tokens, different after steps with a small margin"),
        ([(7, 2, 3), (4, 5)], "no", "prompt 0 differs at token 0, decided by 2 nats"),
        ([(1, 2, 3), (4,)], "no", "prompt 1 differs at token 1, decided by 1 nats"),
        ([(1, 2, 3), (4, 5, 6)], "no", "prompt 1 differs at token 2, decided by 3 nats"),
    ],
)
def test_answers_are_compared_up_to_a_step_with_a_small_margin(
    tokens: list[tuple[int, ...]], word: str, why: str
) -> None:
    reference = ReferenceAnswers(((1, 2, 3), (4, 5)), ((2.0, 0.001, 1.0), (1.0, 1.0, 3.0)))
    verdict = compare_tokens(tokens, reference)
    assert (verdict.word, verdict.why) == (word, why)


def test_the_page_explains_every_cell_that_is_not_yes() -> None:
    off = MADE.with_verdicts({"cache": Verdict("off", "the cache is off"), "vllm": Verdict("no", "KeyError: x\n  y")})
    refused = Entry("other", "", {}, {}, ("not loaded: model.path: /some/where/other takes no cache.",))
    entries = [
        MADE.answered("hf", "torch 2"),
        off.answered("hf", "torch 2").answered("vllm", "vllm 9"),
        refused,
    ]
    markdown = page(entries, {"made": "Tiles."})
    assert "With torch 2, vllm 9." in markdown
    assert f"| made | Made | {' | '.join(['yes'] * len(COLUMNS))} | Tiles. |" in markdown
    words = ["**no**" if column == "vllm" else "off" if column == "cache" else "yes" for column in COLUMNS]
    assert f"| made | Made | {' | '.join(words)} | Tiles. |" in markdown
    assert f"| other | – | {' | '.join(['not run'] * len(COLUMNS))} |  |" in markdown
    assert "- **made**, image cache = none: the cache is off" in markdown
    assert "- **made**, vLLM = loop: KeyError: x y" in markdown
    assert "- **other**, not run: not loaded: model.path: other takes no cache." in markdown


def test_entries_survive_a_round_trip_through_their_file(tmp_path: Path) -> None:
    entry = Entry(
        "a", "A", {"generate": Verdict("no", "why")}, {"greedy": ReferenceAnswers(((1, 2),), ((0.5, 0.25),))}, ("note",)
    ).answered("hf", "torch 2")
    write_entries([entry], tmp_path / "results.json")
    assert read_entries(tmp_path / "results.json") == [entry]
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match=r"is not a file of `python -m lab\.architectures`"):
        read_entries(tmp_path / "results.json")


def test_a_killed_process_keeps_finished_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["pixtral", "llava"]
    with subprocess.Popen([*COMMAND, *names, "--work", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert first.startswith("pixtral ")
    repeated = []
    own = checks.check_hf
    monkeypatch.setattr(checks, "check_hf", lambda name, folder: (repeated.append(name), own(name, folder))[1])
    table = check_architectures(names, tmp_path)
    assert repeated == ["llava"]
    assert {entry.name: entry.verdicts["generate"].word for entry in table.entries} == dict.fromkeys(names, "yes")
    check_architectures(["pixtral"], tmp_path, again=True)
    assert repeated == ["llava", "pixtral"]


def program(folder: Path, *lines: str) -> Path:
    """A program that replaces the Python of another environment."""
    path = folder / "python"
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def test_a_vllm_process_that_dies_is_reported_and_the_other_architectures_are_checked(tmp_path: Path) -> None:
    names = ["llava", "llava_next", "pixtral"]
    write_entries([Entry(name, "Made") for name in names], tmp_path / "results.json")
    dies = program(tmp_path, 'test "$3" = llava && echo "llava  yes" && kill -9 $$', 'echo "noise"; echo "$3  yes"')
    reported: list[str] = []
    vllm_process.check_in_process(dies, names, tmp_path, lambda entry: reported.append(entry.name))
    assert reported == names
    entries = ResultsFile(tmp_path / "results.json").entries
    assert {name: entry.verdicts for name, entry in entries.items()} == {
        "llava": {},
        "llava_next": dict.fromkeys(("vllm", "lockstep"), Verdict("no", "vLLM's process died: SIGKILL")),
        "pixtral": {},
    }
    assert (tmp_path / "vllm.log").read_text() == "noise\n"
    assert all("vllm" not in entry.releases for entry in entries.values())  # so that the next call asks again


def test_a_failing_environment_is_reported_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not answer for vLLM: no vllm here \(more in .*vllm.log\)"):
        vllm_process.check_in_process(
            program(tmp_path, "echo no vllm here >&2", "exit 2"), ["llava"], tmp_path, lambda _: None
        )
    with pytest.raises(ConfigError, match=r"--vllm: .*nothing is not a Python that can be started"):
        vllm_process.check_in_process(tmp_path / "nothing", ["llava"], tmp_path, lambda _: None)


@pytest.mark.skipif(not OTHER.is_file(), reason="needs the environment that tests/vllm_env.sh makes (VLLM_ENV)")
def test_one_command_checks_both_environments_and_writes_the_page(tmp_path: Path) -> None:
    call = [*COMMAND, "pixtral", "--work", str(tmp_path), "--vllm", str(OTHER), "--table", str(tmp_path / "page.md")]
    output = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert "lockstep yes" in output
    output = (tmp_path / "page.md").read_text()
    assert f"| pixtral | Llava | {' | '.join(['yes'] * len(COLUMNS))} |" in output
    assert re.search(r"With torch \S+, transformers \S+, vllm \S+ \(with transformers \S+\)\.", output)


def test_an_unknown_architecture_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no architecture named 'lava'\. Did you mean 'llava'"):
        check_architectures(["lava"], tmp_path)


NOT_RUN = ["llama4", "shieldgemma2", "got_ocr2", "blip_2", "kosmos_2", "fuyu"]
"""Architectures that this release of transformers or their own processors cannot run."""


def test_the_shipped_page_has_every_architecture_and_no_failure_of_the_backend() -> None:
    rows, text = shipped_rows(), PAGE.read_text("utf-8")
    assert list(rows) == list(ARCHITECTURES)
    assert [name for name, words in rows.items() if "no" in [words[column] for column in HF]] == []
    assert [name for name, words in rows.items() if words["generate"] != "yes"] == NOT_RUN
    assert [name for name in NOT_RUN if f"- **{name}**, not run: " not in text] == []


def test_every_type_of_transformers_has_a_row_or_a_reason() -> None:
    reasons = uncovered_types()
    assert covered_types().isdisjoint(reasons)
    assert {"gemma3n", "git", "udop"} <= set(reasons)
    section = PAGE.read_text("utf-8").partition("## Types without a row")[2]
    listed = re.findall(r"^- \*\*([\w.-]+)\*\*: (.+)$", section, re.M)
    assert dict(listed) == reasons


def test_a_check_that_recomputes_branches_notices_another_token(work: Path) -> None:
    hf = HF_MODEL(path=str(checkpoint("pixtral", work / "pixtral")), dtype="float32", device="cpu")
    chosen = [prompts()[number] for number in recomputation.CHOSEN]
    answers = [list(one.tokens) for one in checks.generate(hf, "cad", chosen)]
    assert recomputation.check_branches(hf, {"cad": (recomputation.CAD, answers)}).word == "yes"
    answers[1][3] += 1
    verdict = recomputation.check_branches(hf, {"cad": (recomputation.CAD, answers)})
    assert (verdict.word, verdict.why) == ("no", "cad, prompt 3: recomputed scores prefer another token 3")
