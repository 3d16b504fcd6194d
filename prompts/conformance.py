"""What every orderer and every composer must do, as calls for our tests and for anyone's own.

    check_orderer(Mine())        check_composer(Mine())

Both are tried on contexts of 0 to 4 demonstrations with no, one and several pictures an example.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from icl.pictures import Picture
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Query
from prompts.base import Composer, Orderer

NAME = re.compile(r"instruction|(demo\[\d+\]|query)\.(picture\[\d+\]|question)|demo\[\d+\]\.answer")


def sample_contexts() -> list[Context]:
    """Contexts of 0 to 4 demonstrations, the query with none, one or two pictures."""
    demos = [
        Demo(_example(f"demo-{i}", count, f"What is {{this}}, no. {i}?", f"thing {i}"), score=0.9 - i / 10, rank=i)
        for i, count in enumerate((1, 2, 0, 1))
    ]
    demos[3] = replace(demos[3], example=replace(demos[3].example, question=demos[0].example.question))
    return [
        Context(_example(f"query-{count}", count, "¿Qué es <esto>?", "").query, tuple(demos[:shots]), StreamKey(3, "q"))
        for count in (0, 1, 2)
        for shots in range(5)
    ]


def check_orderer(orderer: Orderer, contexts: Iterable[Context] | None = None) -> None:
    """Raises AssertionError with a sentence where demonstrations are lost or changed, or chance is not the query's."""
    for context in contexts or sample_contexts():
        at = f"{len(context.demos)} demonstrations"
        ordered = orderer.order(context)
        before, after = (Counter(_told(demo) for demo in c.demos) for c in (context, ordered))
        assert before == after, f"{at}: they are not the same after ordering."
        assert ordered.query == context.query, f"{at}: the query was changed."
        assert ordered.key == context.key, f"{at}: the stream key was changed."
        assert _ids(orderer.order(context)) == _ids(ordered), f"{at}: a second call gives another order."
        turned = replace(context, demos=context.demos[::-1])
        assert _ids(orderer.order(turned)) == _ids(ordered), f"{at}: the order depends on more than the ranks."


def check_composer(composer: Composer, contexts: Iterable[Context] | None = None) -> None:
    """Raises AssertionError with a sentence where a prompt lacks, repeats or misplaces a piece of its context."""
    for context in contexts or sample_contexts():
        at = f"query '{context.query.id}', {len(context.demos)} demonstrations"
        prompt = composer.compose(context)
        parts = {part.name: part for part in prompt.parts() if part.name}
        names = [part.name for part in prompt.parts() if part.name]
        twice = [name for name, count in Counter(names).items() if count > 1]
        assert not twice, f"{at}: the names {twice} stand twice."
        strange = [name for name in names if not NAME.fullmatch(name)]
        assert not strange, f"{at}: {strange} are not names of parts."
        assert prompt.key == context.key, f"{at}: the prompt does not have the context's stream key."
        assert composer.compose(context).digest == prompt.digest, f"{at}: a second call gives another prompt."
        _check_whole(context, prompt, parts, at)
        _check_places(context, prompt, names, at)


def _check_whole(context: Context, prompt: Prompt, parts: dict[str, Part], at: str) -> None:
    shown: list[tuple[str, Query | Example]] = [(f"demo[{i}]", demo.example) for i, demo in enumerate(context.demos)]
    shown.append(("query", context.query))
    for name, item in shown:
        question = parts[f"{name}.question"].content if f"{name}.question" in parts else ""
        assert question == item.question, f"{at}: {name}.question is {question!r}, not {item.question!r}."
        for j, picture in enumerate(item.pictures):
            seen = parts[f"{name}.picture[{j}]"].picture if f"{name}.picture[{j}]" in parts else None
            assert seen == picture, f"{at}: {name}.picture[{j}] is not the picture."
        if isinstance(item, Example):
            answer = parts[f"{name}.answer"].content if f"{name}.answer" in parts else None
            assert answer == item.answer, f"{at}: {name}.answer is {answer!r}, not {item.answer!r}."
    pictures = [picture for _, item in shown for picture in item.pictures]
    assert len(prompt.pictures) == len(pictures), f"{at}: {len(prompt.pictures)} pictures, not {len(pictures)}."


def _check_places(context: Context, prompt: Prompt, names: list[str], at: str) -> None:
    owners = [name.split(".")[0] for name in names if name != "instruction"]
    blocks = [owner for i, owner in enumerate(owners) if i == 0 or owners[i - 1] != owner]
    wanted = [f"demo[{i}]" for i in range(len(context.demos))] + ["query"]
    assert blocks == wanted, f"{at}: the pieces stand in the order {blocks}, not {wanted}."
    assert prompt.turns[-1].role == "user", f"{at}: the last turn is the {prompt.turns[-1].role}'s: nothing is asked."
    assert all(turn.parts for turn in prompt.turns), f"{at}: a turn is empty."


def _ids(context: Context) -> list[str]:
    return [demo.example.id for demo in context.demos]


def _told(demo: Demo) -> tuple[str, str, str, float, int]:
    return demo.example.id, demo.example.question, demo.example.answer, demo.score, demo.rank


def _example(name: str, pictures: int, question: str, answer: str) -> Example:
    return Example(name, tuple(_picture(f"{name}/{j}") for j in range(pictures)), question, (answer,))


def _picture(name: str) -> Picture:
    from PIL import Image

    shade = StreamKey(0, name).numpy("shade").integers(256, size=3)
    return Picture.from_image(Image.new("RGB", (8, 8), tuple(int(value) for value in shade)), name)
