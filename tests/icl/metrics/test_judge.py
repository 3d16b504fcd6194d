"""A judge's prompt, the rule that reads its reply, and the store of its verdicts."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, DataError
from icl.images import Image
from icl.metrics.judged import JudgeRating, MMIROpen
from icl.metrics.machinery.judge import Judge
from icl.models.base import Request
from icl.models.fake import FakeGold, FakeModel
from icl.registry import build, describe
from icl.types import Example, Generation

EXAMPLE = Example("q", (), "What color?", ("red", "crimson"), ("red", "blue"))


@dataclass(frozen=True, kw_only=True)
class ExactJudge(FakeModel):
    """Calls an answer right if it is one of the accepted ones."""

    def answer_to(self, request: Request) -> str:
        text = request.prompt.text
        gold = re.search(r"Accepted answers: (.*)", text)
        answer = re.search(r"Answer to check: (.*)", text)
        assert gold
        assert answer
        return "Yes." if answer[1] in gold[1].split(" / ") else "No."


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))


def judge(**parameters: Any) -> Judge:
    return Judge(judge=ExactJudge(), **parameters)


def test_a_score_is_a_stored_verdict_and_calls_no_model() -> None:
    metric, answer = judge(), Generation("red")
    assert metric.score(answer, EXAMPLE) is None
    metric.add(metric.request("red", EXAMPLE), "Yes.")
    metric.add(metric.request("blue", EXAMPLE), "No.")
    metric.add(metric.request("?", EXAMPLE), "I cannot say.")
    for one in (metric, judge()):  # a new process reads the file
        assert one.score(answer, EXAMPLE) == 1
        assert one.score(Generation("<think>blue?</think> red"), EXAMPLE) == 1
        assert one.score(Generation("blue"), EXAMPLE) == 0
        assert one.score(Generation("?"), EXAMPLE) is None
        assert one.score(answer, replace(EXAMPLE, question="What shape?")) is None
    others = [judge(max_new_tokens=3), judge(right="true", wrong="false"), Judge(judge=ExactJudge(image_tokens=2))]
    assert all(one.score(answer, EXAMPLE) is None for one in others)


def test_a_line_that_was_cut_is_skipped(tmp_path: Path) -> None:
    metric = judge()
    metric.add(metric.request("red", EXAMPLE), "Yes.")
    (file,) = (tmp_path / "cache" / "verdicts").iterdir()
    file.write_text(f'{file.read_text()}{{"key": "a", "rig')
    assert len(judge().verdicts) == 1


@pytest.mark.parametrize("right", ['"no"', "[1]", "5", "1", "NaN", "{}", "[" * 100_000])
def test_a_damaged_verdict_is_no_verdict(tmp_path: Path, right: str) -> None:
    metric = judge()
    metric.add(metric.request("blue", EXAMPLE), "No.")
    (file,) = (tmp_path / "cache" / "verdicts").iterdir()
    key = metric.request("red", EXAMPLE).key
    with file.open("a") as handle:
        handle.write(f'{{"key": "{key}", "reply": "", "right": {right}}}\n')
    assert judge().score(Generation("red"), EXAMPLE) is None
    assert judge().score(Generation("blue"), EXAMPLE) == 0


def test_the_text_of_a_prompt_in_place_of_its_file_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="prompt of a judge is the name of a file, not its text"):
        judge(prompt="Is {answer} right? " * 300)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("yes", True),
        ("No.", False),
        ("**Yes**, it says so. There is no doubt.", True),
        ("<think>no?</think>Yes", True),
        ("It names red.\nVerdict: no", False),
        ("Verdict: yes ... on second thought, verdict: no", False),
        ("The answer says red.\nno", False),
        ("yes and no\nVerdict: unclear", None),
        ("not sure", None),
        ("The answer is right, so yes it is.", None),
        ("", None),
    ],
)
def test_a_reply_is_read_by_its_marked_first_or_last_word(reply: str, right: bool | None) -> None:
    one = judge()
    assert one.parse(reply, one.request("red", EXAMPLE)) is right


def test_an_answer_cannot_fill_other_fields_of_the_prompt() -> None:
    text = judge().request("{gold} {question}", EXAMPLE).prompt.text
    assert "Answer to check: {gold} {question}" in text
    assert "Accepted answers: red / crimson" in text


def test_a_judge_sees_images_only_if_asked_to() -> None:
    example = replace(EXAMPLE, images=(Image.from_pil(PILImage.new("RGB", (8, 8), "red")),))
    assert judge().request("red", example).prompt.images == ()
    assert judge(images=True).request("red", example).prompt.images == example.images


@pytest.mark.parametrize(("content", "text"), [(["cat", "dog"], "cat, dog"), ("a cat", "a cat")])
def test_the_content_of_an_image_is_a_list_or_a_text(tmp_path: Path, content: str | list[str], text: str) -> None:
    (tmp_path / "prompt.txt").write_text("{question} {gold} {answer} {image_content}", encoding="utf-8")
    request = judge(prompt=str(tmp_path / "prompt.txt")).request(
        "red", replace(EXAMPLE, meta={"image_content": content})
    )
    assert request.texts["image_content"] == text


def test_a_swapped_request_exchanges_answer_and_gold() -> None:
    swapped = judge().swapped("scarlet", EXAMPLE).texts
    assert (swapped["gold"], swapped["answer"]) == ("scarlet", "red")


def test_a_prompt_on_file_is_a_part_of_the_identity(tmp_path: Path) -> None:
    file = tmp_path / "strict.txt"
    file.write_text("{question} {answer} true or false?")
    first = judge(prompt=str(file), right="true", wrong="false")
    file.write_text("{question} {answer} true or false")
    second = judge(prompt=str(file), right="true", wrong="false")
    assert describe(first) != describe(second)
    assert first.request("red", EXAMPLE).key != second.request("red", EXAMPLE).key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{question} {answr}", r"has no field {answr}. Did you mean 'answer'"),
        ("{question}", r"lacks {answer}"),
    ],
)
def test_a_prompt_without_its_fields_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        judge(prompt=str(file))


def test_a_judge_is_named_by_the_user_and_reads_a_prompt_alone() -> None:
    with pytest.raises(ConfigError, match="judge: field required"):
        build("metric", "judge")
    with pytest.raises(ConfigError, match="reads gold in addition to a prompt"):
        Judge(judge=FakeGold())
    with pytest.raises(ConfigError, match=r"no prompt of a judge 'correct.tx'.*Did you mean 'correct.txt'"):
        judge(prompt="correct.tx")
    with pytest.raises(ConfigError, match="two different words"):
        judge(right="No", wrong="no")


@pytest.mark.parametrize(
    ("reply", "rating", "right"),
    [
        ("rating: 4", 4, True),
        ("Rating: 6, very informative", 6, True),
        ("The answer has 2 errors of 3.\n**Rating:** 1", 1, False),
        ("0", 0, False),
        ("rating: 7", None, None),
        ("3 or 4", None, None),
        ("none", None, None),
        ("<think>rating: 1</think>5", 5, True),
    ],
)
def test_a_rating_is_the_number_of_a_reply(reply: str, rating: float | None, right: bool | None) -> None:
    metric = JudgeRating(judge=ExactJudge(), prompt="mmhal.txt")
    metric.add(request := metric.request("red", EXAMPLE), reply)
    assert metric.score(Generation("red"), EXAMPLE) == rating
    assert metric.parse(reply, request) is right
    others = [JudgeRating(judge=ExactJudge(), prompt="mmhal.txt", passing=2), judge(prompt="mmhal.txt")]
    assert all(one.score(Generation("red"), EXAMPLE) is None for one in others)


def test_a_judge_that_rates_has_a_passing_rating_within_its_scale() -> None:
    with pytest.raises(ConfigError, match=r"passing must be a rating from 1 to 6 \(highest\), not 7"):
        JudgeRating(judge=ExactJudge(), passing=7)


ELEMENTS = Example("q", (), "Find it.", ("2", "3"), meta={"descs": "1. the title\n2. the logo\n3. the footer"})


def released_score(answer_id: str, gold: list[int]) -> float:
    """MMIR's rule by cases, as its paper states it."""
    ids = {int(number) for number in re.findall(r"\d+", answer_id)}
    if len(ids) not in (1, 2):
        return 0
    if len(gold) == 1:
        return {True: 1 if len(ids) == 1 else 0.5, False: 0}[gold[0] in ids]
    return sum(one in gold for one in ids) / 2


@pytest.mark.parametrize("gold", [("2",), ("2", "3")])
@pytest.mark.parametrize("ids", ["[2]", "[2],[3]", "[3],[2],[2]", "[1],[2]", "[1]", "[1],[2],[3]", "none", ""])
def test_an_open_answer_of_mmir_has_the_released_score_of_the_elements_that_the_judge_names(
    gold: tuple[str, ...], ids: str
) -> None:
    metric, example = MMIROpen(judge=ExactJudge()), replace(ELEMENTS, answers=gold)
    request = metric.request("It is 1. <ans>\nthe logo\n</ans>", example)
    assert "Sentence:\nthe logo\n" in request.prompt.text.replace("\n\n", "\n")
    assert "3. the footer" in request.prompt.text
    assert "Find it." not in request.prompt.text
    metric.add(request, f"The 3 elements: <id>\n{ids}\n</id>")
    assert metric.score(Generation("<ans>the logo</ans>"), example) == released_score(ids, [*map(int, gold)])


def test_a_reply_without_elements_has_no_score_and_a_table_without_elements_is_refused() -> None:
    metric = MMIROpen(judge=ExactJudge())
    metric.add(request := metric.request("the logo", ELEMENTS), "I cannot tell.")
    assert metric.score(Generation("the logo"), ELEMENTS) is None
    assert metric.parse("[2]", request) is True
    with pytest.raises(DataError, match=r"needs descs of query 'q', which the task does not store\. Add descs"):
        metric.request("the logo", replace(ELEMENTS, meta={}))
