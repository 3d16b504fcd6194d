"""The table of architectures: verdicts that can fail, a page that tells every exception, and what this release does."""

import re
from pathlib import Path

import pytest

from experiments.architectures import checks
from experiments.architectures.asked import checkpoint, prompts
from experiments.architectures.engines import same
from experiments.architectures.run import asked
from experiments.architectures.table import COLUMNS, page
from experiments.architectures.verdicts import Answers, Entry, Verdict, read, written
from icl.errors import ConfigError, DataError
from icl.models.hf.random.make import ARCHITECTURES

PAGE = Path(__file__).parents[3] / "icl" / "models" / "hf" / "ARCHITECTURES.md"
HF = ("generate", "batch", "cache", "identity")
MADE = Entry("made", "MadeForConditionalGeneration", dict.fromkeys(COLUMNS, Verdict("yes")))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.mark.parametrize(("name", "cache"), [("pixtral", "yes"), ("idefics2", "off")])
def test_an_architecture_is_asked_on_a_checkpoint_of_its_own(name: str, cache: str, work: Path) -> None:
    found = {entry.name: entry for entry in asked([name], work).entries}[name]
    assert {column: found.verdicts[column].word for column in HF} == {**dict.fromkeys(HF, "yes"), "cache": cache}
    assert [len(tokens) for tokens in found.answers["greedy"].tokens] == [12] * len(prompts())
    assert found.answers["vcd"].tokens != found.answers["greedy"].tokens
    kept, versions = read(work / "results.json")
    assert found in kept
    assert {"torch", "transformers"} <= set(versions)


def test_a_strategy_that_is_not_greedy_fails_the_identity(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.ARMS, "identity", {**checks.ARMS["vcd"], "alpha": 5.0})
    assert checks.checked("pixtral", checkpoint("pixtral", work / "pixtral")).verdicts["identity"].word == "no"


def test_one_that_cannot_be_loaded_says_why(work: Path) -> None:
    (found,) = (entry for entry in asked(["blip_2"], work).entries if entry.name == "blip_2")
    assert found.verdicts == {}
    assert "has no chat template" in found.notes[0]


@pytest.mark.parametrize(
    ("found", "word", "why"),
    [
        ([(1, 2, 3), (4, 5)], "yes", "5 of 5 tokens"),
        ([(1, 9, 9), (4, 5)], "yes", "3 of 5 tokens, parted at close steps"),
        ([(7, 2, 3), (4, 5)], "no", "prompt 0 parts at token 0, decided by 2 nats"),
        ([(1, 2, 3), (4,)], "no", "prompt 1 parts at token 1, decided by 1 nats"),
        ([(1, 2, 3), (4, 5, 6)], "no", "prompt 1 parts at token 2, decided by 3 nats"),
    ],
)
def test_answers_are_the_same_up_to_a_step_that_was_close(found: list[tuple[int, ...]], word: str, why: str) -> None:
    wanted = Answers(((1, 2, 3), (4, 5)), ((2.0, 0.001, 1.0), (1.0, 1.0, 3.0)))
    verdict = same(found, wanted)
    assert (verdict.word, verdict.why) == (word, why)


def test_the_page_tells_every_cell_that_is_not_a_plain_yes() -> None:
    off = MADE.with_verdicts({"cache": Verdict("off", "the cache is off"), "vllm": Verdict("no", "KeyError: x\n  y")})
    refused = Entry("other", "", {}, {}, ("not loaded: model.path: /some/where/other takes no cache.",))
    told = page([MADE, off, refused], {"torch": "2"}, {"made": "Tiles."})
    assert "With torch 2." in told
    assert "| made | Made | yes | yes | yes | yes | yes | yes | Tiles. |" in told
    assert "| made | Made | yes | yes | off | yes | **no** | yes | Tiles. |" in told
    assert "| other | – | not run | not run | not run | not run | not run | not run |  |" in told
    assert "- **made**, picture cache = none: the cache is off" in told
    assert "- **made**, vLLM = loop: KeyError: x y" in told
    assert "- **other**, not run: not loaded: model.path: other takes no cache." in told


def test_what_was_found_comes_back_from_its_file(tmp_path: Path) -> None:
    told = Entry(
        "a", "A", {"generate": Verdict("no", "why")}, {"greedy": Answers(((1, 2),), ((0.5, 0.25),))}, ("note",)
    )
    written([told], {"torch": "2"}, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == ([told], {"torch": "2"})
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match="is not a file of `icl architectures`"):
        read(tmp_path / "results.json")


def test_an_unknown_architecture_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no architecture named 'lava'\. Did you mean 'llava'"):
        asked(["lava"], tmp_path)


def test_the_shipped_page_has_every_architecture_and_no_wrong_answer_of_ours() -> None:
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|", PAGE.read_text("utf-8"), re.M)
    words = {name: own for name, *own in rows if name != "architecture"}
    assert list(words) == list(ARCHITECTURES)
    assert [name for name, own in words.items() if "**no**" in own] == []
    assert [name for name, own in words.items() if own[0] != "yes"] == ["blip_2"]
