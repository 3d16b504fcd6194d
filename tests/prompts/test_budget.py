"""Which demonstrations are dropped from a prompt that is too long."""

import re

import pytest
from PIL import Image as PILImage

from icl.errors import PlanError
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Prompt
from prompts.budget import fit
from prompts.composers.turns import Chat, Interleaved
from prompts.orderers.simple_orders import RandomOrderer, Reversed

IMAGE = 100


def _tokens(prompt: Prompt) -> int:
    """An image is 100 tokens times its width, a word one."""
    words = sum(len(part.text.split()) for part in prompt.parts() if part.text is not None)
    return words + sum(IMAGE * image.open().width for image in prompt.images)


def _example(number: int, width: int = 1) -> Example:
    image = Image.from_pil(PILImage.new("RGB", (width, 1), (number, 0, 0)))
    return Example(f"e{number}", (image,), "one two three", ("four",))


def _context(shots: int, widths: dict[int, int] | None = None) -> Context:
    demos = tuple(Demo(_example(i, (widths or {}).get(i, 1)), 0.9 - i / 100, i) for i in range(shots))
    return Context(_example(99).query, demos, StreamKey(0, "e99"))


def test_a_prompt_that_fits_is_unchanged() -> None:
    context = Reversed().order(_context(4))
    prompt, fitted, dropped = fit(context, Chat(), _tokens, limit=4 * 104 + 103 + 16, reserve=16)
    assert fitted is context
    assert dropped == ()
    assert _tokens(prompt) == 4 * 104 + 103


def test_the_least_similar_are_dropped_first_and_the_order_stays() -> None:
    context = Reversed().order(_context(4))
    prompt, fitted, dropped = fit(context, Chat(), _tokens, limit=4 * 104 + 103 + 15, reserve=16)
    assert dropped == ("e3",)
    assert [demo.example.id for demo in fitted.demos] == ["e2", "e1", "e0"]
    assert fitted.provenance == ("budget: dropped e3",)
    assert prompt == Chat().compose(fitted)


def test_a_shorter_prompt_may_fill_the_room_to_the_last_token() -> None:
    context = Reversed().order(_context(4))
    for shots in range(4):
        prompt, fitted, dropped = fit(context, Chat(), _tokens, limit=shots * 104 + 103 + 16, reserve=16)
        assert dropped == ("e3", "e2", "e1", "e0")[: 4 - shots]  # the least similar first
        assert len(fitted.demos) == shots
        assert _tokens(prompt) == shots * 104 + 103


@pytest.mark.parametrize("composer", [Chat(), Interleaved(instruction="long")])
@pytest.mark.parametrize("shots", [0, 1, 7])
def test_every_limit_keeps_as_many_as_fit(composer: Chat | Interleaved, shots: int) -> None:
    context = RandomOrderer().order(_context(shots, {2: 3, 5: 2}))
    whole = _tokens(composer.compose(context))
    alone = _tokens(composer.compose(_context(0)))
    for limit in range(alone, whole + 60, 25):
        prompt, fitted, dropped = fit(context, composer, _tokens, limit)
        assert _tokens(prompt) <= limit
        assert len(fitted.demos) + len(dropped) == shots
        ranks = sorted(demo.rank for demo in fitted.demos)
        assert ranks == list(range(len(ranks)))
        assert [d.example.id for d in fitted.demos] == [d.example.id for d in context.demos if d.rank in ranks]
        assert prompt.turns[-1].parts[-1].text in ("one two three", "Answer:")
        if dropped:
            with_next = [d for d in context.demos if d.rank <= len(ranks)]
            assert _tokens(composer.compose(Context(context.query, tuple(with_next)))) > limit


def test_no_limit_drops_nothing() -> None:
    _, fitted, dropped = fit(_context(50), Chat(), _tokens, None, 16)
    assert (len(fitted.demos), dropped) == (50, ())


def test_a_query_that_does_not_fit_alone_is_an_error_with_its_numbers() -> None:
    says = "query 'e99' takes 103 tokens without any demonstration, and the model's context of 110 leaves 100 after 10"
    with pytest.raises(PlanError, match=re.escape(says)):
        fit(_context(3), Chat(), _tokens, limit=110, reserve=10)


def test_few_counts_are_made_for_many_demonstrations() -> None:
    calls: list[int] = []

    def counted(prompt: Prompt) -> int:
        calls.append(1)
        return _tokens(prompt)

    _, fitted, _ = fit(_context(200), Chat(), counted, limit=100 * 104)
    assert len(fitted.demos) == 99
    assert len(calls) <= 10
