"""Edited prompts equal those that the composer writes, for every composer."""

import pytest

from decoding import prompt_edits as changes
from icl.errors import PlanError
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Query, Turn
from prompts.composers.turns import Blocks, Chat, Interleaved
from tests.decoding.prompts import image, prompt

COMPOSERS = [
    Chat(),
    Chat(first="text", instruction="short"),
    Interleaved(instruction="long"),
    Interleaved(first="text"),
    Blocks(order="qpa", instruction="short", instruction_at="within"),
    Blocks(instruction="short", instruction_at="tail"),
]


def composed(composer: object, numbers: tuple[int, ...], key: StreamKey = StreamKey(0, "q")) -> Prompt:
    demos = tuple(Demo(Example(f"d{i}", (image(i),), f"What is {i}?", (f"answer {i}",)), rank=i) for i in numbers)
    query = Query("q", (image(99),), "What is it?")
    result: Prompt = composer.compose(Context(query, demos, key))  # type: ignore[attr-defined]
    return result


@pytest.mark.parametrize("composer", COMPOSERS, ids=str)
def test_removing_demonstrations_gives_the_composers_prompt_at_0_shots(composer: object) -> None:
    assert changes.remove_demonstrations(composed(composer, (0, 1, 2))).digest == composed(composer, ()).digest
    assert changes.remove_demonstrations(composed(composer, ())) == composed(composer, ())


@pytest.mark.parametrize("composer", COMPOSERS, ids=str)
def test_windows_equal_the_composers_prompts_of_their_demonstrations(composer: object) -> None:
    whole = composed(composer, (0, 1, 2, 3, 4))
    assert [w.digest for w in changes.demonstration_windows(whole, 2)] == [
        composed(composer, (0, 1)).digest,
        composed(composer, (2, 3, 4)).digest,
    ]
    assert [w.digest for w in changes.demonstration_windows(whole, 0)] == [
        composed(composer, (i,)).digest for i in range(5)
    ]
    assert changes.keep_demonstrations(whole, (1, 3)).digest == composed(composer, (1, 3)).digest


def test_there_are_never_more_windows_than_demonstrations() -> None:
    assert len(changes.demonstration_windows(composed(Chat(), (0, 1)), 5)) == 2
    assert changes.demonstration_windows(composed(Chat(), ()), 5) == (composed(Chat(), ()),)


def test_removing_the_query_image_keeps_demonstration_images() -> None:
    imageless = changes.remove_part(prompt(1, shots=2), "image")
    assert [part.name for part in imageless.parts() if part.image] == ["demo[0].image[0]", "demo[1].image[0]"]
    assert changes.remove_part(prompt(1, shots=2), "both").text == "[user] What is number 1?"


def test_a_prompt_with_only_an_image_cannot_lose_it() -> None:
    with pytest.raises(PlanError, match="only its image"):
        changes.remove_query_image(Prompt((Turn("user", (Part(image(1), "query.image[0]"),)),)))


def test_an_instruction_is_replaced_or_put_first() -> None:
    with_one = composed(Chat(instruction="short"), (0,))
    assert changes.replace_instruction(with_one, "Guess.").text.startswith("[user] Guess.\n<image>")
    assert "one word" not in changes.replace_instruction(with_one, "Guess.").text
    assert changes.replace_instruction(composed(Chat(), ()), "Guess.").text == "[user] Guess.\n<image>What is it?"


def test_words_before_and_after_the_question() -> None:
    assert (
        changes.wrap_question(composed(Chat(), ()), "So. ", " Say yes.").text
        == "[user] <image>So. What is it? Say yes."
    )
    with pytest.raises(PlanError, match="no question"):
        changes.wrap_question(Prompt((Turn("user", (Part("hello"),)),)), "So. ")


def test_a_description_replaces_the_image() -> None:
    described = changes.replace_images(prompt(1, shots=1), {"query.image[0]": "a red square"})
    assert described.text.endswith("[user] a red squareWhat is number 1?")
    assert len(described.images) == 1


def answers(of: Prompt) -> list[str | None]:
    return [part.text for part in of.parts() if part.name.endswith(".answer")]


def test_shuffled_answers_are_a_permutation_without_fixed_points() -> None:
    for query in "abcdef":
        whole = composed(Chat(), (0, 1, 2, 3), StreamKey(0, query))
        shuffled = answers(changes.replace_answers(whole, "shuffled"))
        assert sorted(map(str, shuffled)) == sorted(map(str, answers(whole)))
        assert all(a != b for a, b in zip(shuffled, answers(whole), strict=True))
        assert changes.replace_answers(whole, "shuffled") == changes.replace_answers(whole, "shuffled")


def test_wrong_answers_are_other_answers_of_the_prompt() -> None:
    whole = composed(Chat(), (0, 1, 2))
    wrong = answers(changes.replace_answers(whole, "wrong"))
    assert set(wrong) <= set(answers(whole))
    assert all(a != b for a, b in zip(wrong, answers(whole), strict=True))


def test_equal_answers_cannot_be_replaced() -> None:
    with pytest.raises(PlanError, match="all 2 are 'red'"):
        changes.replace_answers(prompt(1, shots=2), "wrong")
    with pytest.raises(PlanError, match="there are none"):
        changes.replace_answers(prompt(1, shots=0), "shuffled")
