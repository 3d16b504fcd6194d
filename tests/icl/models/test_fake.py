"""Each fake model answers as documented, in any batch."""

import math
from collections import Counter

import pytest

from icl.errors import ConfigError, ModelError
from icl.images import Image
from icl.metrics.accuracy import OptionAccuracy
from icl.models.base import Request
from icl.models.fake import FakeCopy, FakeGold, FakeNearest, FakeScripted, FakeUniform, FakeVote
from icl.registry import build, describe, entries
from icl.streams import StreamKey
from icl.testing.conformance import check_model
from icl.types import Example, Generation, Part, Prompt, Turn

OPTIONS = ("red", "blue", "green")


def request(query: str = "q", *, demos=(), gold=("green",), options=OPTIONS, seed: int = 0, limit: int = 8) -> Request:
    demonstrations = tuple((Example(f"d{i}", (), "?", (answer,)), score) for i, (answer, score) in enumerate(demos))
    prompt = Prompt((Turn("user", (Part("what is it ?", "query.question"),)),), StreamKey(seed, query))
    return Request(prompt, options, limit, demonstrations, gold)


def says(model, **more) -> str:
    return model.generate([request(**more)])[0].text


DEMOS = (("red", 0.9), ("blue", 0.1), ("blue", 0.2), ("green", 0.3))


def test_each_fake_answers_by_its_failure_mode():
    assert says(FakeCopy(), demos=DEMOS) == "green"
    assert says(FakeVote(), demos=DEMOS) == "blue"
    assert says(FakeNearest(), demos=DEMOS) == "red"
    assert says(FakeGold(), demos=DEMOS, gold=("teal", "cyan")) == "teal"


def test_without_demonstrations_the_copying_fakes_give_an_empty_answer():
    assert [says(model()) for model in (FakeCopy, FakeVote, FakeNearest)] == ["", "", ""]


def test_ties_go_to_the_demonstration_next_to_the_query():
    tied = (("red", 0.0), ("blue", 0.0))
    assert says(FakeVote(), demos=tied) == says(FakeNearest(), demos=tied) == "blue"


def test_fakes_declare_what_they_read():
    assert {m.needs for m in (FakeCopy, FakeVote, FakeNearest, FakeUniform)} == {frozenset({"demos"})}
    assert FakeGold.needs == {"gold"}
    assert FakeScripted.needs == {"demos", "gold"}


def test_uniform_is_even_over_queries_and_fixed_for_each():
    requests = [request(f"q{i}") for i in range(600)]
    answers = [g.text for g in FakeUniform().generate(requests)]
    assert all(160 <= n <= 240 for n in Counter(answers).values())
    assert [g.text for g in FakeUniform().generate(requests[::-1])] == answers[::-1]
    assert [g.text for g in FakeUniform().generate([request(f"q{i}", seed=1) for i in range(600)])] != answers
    assert says(FakeUniform(), options=(), demos=(("only", 0.1),)) == "only"
    assert says(FakeUniform(), options=()) == ""


def test_gold_is_right_in_its_share_of_queries_and_nested_over_shares():
    requests = [request(f"q{i}") for i in range(500)]

    def right(share):
        return {i for i, g in enumerate(FakeGold(accuracy=share).generate(requests)) if g.text == "green"}

    assert 0.25 < len(right(0.3)) / 500 < 0.35
    assert right(0.3) < right(0.7) < right(1.0) == set(range(500))
    assert {g.text for g in FakeGold(accuracy=0.0).generate(requests)} == {"red", "blue"}


def test_option_scores_are_log_probabilities_and_the_answer_is_best():
    (answer,) = FakeCopy().generate([request(demos=DEMOS)])
    assert sum(map(math.exp, answer.option_scores.values())) == pytest.approx(1)
    assert max(answer.option_scores, key=answer.option_scores.get) == "green"
    (silent,) = FakeCopy().generate([request()])
    assert len(set(silent.option_scores.values())) == 1
    assert OptionAccuracy().score(silent, Example("q", (), "?", ("red",), OPTIONS)) == 0
    assert FakeCopy().generate([request(options=())])[0].option_scores == {}


def test_usage_is_counted_and_new_tokens_are_limited():
    scripted = FakeScripted(lambda request: "one two three four five")
    (long,) = scripted.generate([request(limit=8)])
    (short,) = scripted.generate([request(limit=3)])
    assert (long.text, long.finish, long.usage.new_tokens) == ("one two three four five", "stop", 6)
    assert (short.text, short.finish, short.usage.new_tokens) == ("one two three", "length", 3)
    assert long.usage.prompt_tokens == 4
    assert long.usage.forwards == long.usage.new_tokens


def test_tokens_are_words_and_images(tmp_path):
    image = Image.from_path(tmp_path / "never_opened.png")
    prompt = Prompt((Turn("user", (Part(image), Part("two words"))), Turn("assistant", (Part("a"),))))
    assert FakeCopy().count_tokens(prompt) == 4
    assert FakeCopy(image_tokens=16).count_tokens(prompt) == 19


def test_a_prompt_that_does_not_fit_is_an_error():
    with pytest.raises(ModelError, match="a prompt of 4 tokens and an answer of 8 do not fit into 10 tokens"):
        FakeCopy(max_tokens=10).generate([request()])


def test_a_script_comes_from_a_file_and_its_code_is_part_of_the_description(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text("def answer(request):\n    return request.gold[0].upper()\n")
    monkeypatch.chdir(tmp_path)
    model = build("model", {"name": "fake-scripted", "answer": "script.py:answer"})
    assert says(model) == "GREEN"
    before, digest = describe(model), model.digest
    (tmp_path / "script.py").write_text("def answer(request):\n    return request.gold[0].upper()  # edited\n")
    again = build("model", {"name": "fake-scripted", "answer": "script.py:answer"})
    assert (describe(again), again.digest) != (before, digest)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("script.py:anser", "script.py has no function 'anser'. Did you mean 'answer'?"),
        ("nowhere.py:answer", "there is no file nowhere.py"),
        ("no_such_module:answer", "there is no module 'no_such_module'"),
        ("answer", "a function is given by its path"),
    ],
)
def test_a_script_that_is_not_there_is_an_error_with_its_place(answer, says, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text("def answer(request):\n    return ''\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        build("model", {"name": "fake-scripted", "answer": answer}, "x.yaml:3: model")
    assert str(error.value).startswith("x.yaml:3: model: ")
    assert says in str(error.value)


def test_a_script_may_give_a_whole_generation_and_nothing_else():
    whole = Generation("hm", option_scores={"red": -1.0})
    assert FakeScripted(lambda request: whole).generate([request()]) == [whole]
    with pytest.raises(ModelError, match="the function returned 3"):
        FakeScripted(lambda request: 3).generate([request()])


@pytest.mark.parametrize("name", [n for n in entries("model") if n.startswith("fake-") and n != "fake-scripted"])
def test_it_passes_the_check_of_models(name):
    check_model(build("model", name))


def test_the_check_catches_a_model_that_depends_on_its_batch():
    class Drifting(FakeCopy):
        def generate(self, requests):
            return [Generation(str(len(requests)), usage=g.usage, option_scores=g.option_scores)
                    for g in super().generate(requests)]  # fmt: skip

    with pytest.raises(AssertionError, match="in a batch and '1' alone"):
        check_model(Drifting())
