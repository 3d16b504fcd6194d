"""Transforms of images and questions: what is removed, what stays, and what a permutation can move."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PILImage

from icl.edits import Blank, DiffusionNoise
from icl.errors import ConfigError, DataError, PlanError
from icl.images import Image
from icl.registry import build, describe
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.types import Context, Demo, Example, Query
from prompts.example_changes import derange
from prompts.transforms.images import middles

Make = Callable[..., Context]


def _images(of: Context) -> list[int]:
    """The red of each demonstration's image, by rank."""
    ranked = sorted(of.demos, key=lambda demo: demo.rank)
    return [demo.example.images[0].open().getpixel((0, 0))[0] for demo in ranked]  # type: ignore[index]


def test_images_are_removed_from_the_selected_owners(transformed: Make) -> None:
    for where, demos, query in (("demos", 0, 1), ("query", 1, 0), ("all", 0, 0)):
        done = transformed({"name": "images", "where": where}, "ab")
        assert [len(demo.example.images) for demo in done.demos] == [demos] * 2
        assert len(done.query.images) == query
        assert done.provenance == ("images: removed",)


def test_blank_images_are_one_shade_and_as_large(transformed: Make) -> None:
    done = transformed({"name": "images", "how": "blank", "shade": 255}, "ab")
    image = done.demos[0].example.images[0].open()
    assert (image.size, image.getcolors()) == ((4, 4), [(16, (255, 255, 255))])


def test_noise_depends_on_the_example_in_any_order(transformed: Make) -> None:
    done = transformed({"name": "images", "how": "noise", "step": 500}, "ab")
    edits = {demo.example.id: demo.example.images[0].edits[0] for demo in done.demos}
    assert edits["e0"] == DiffusionNoise(500).bind(StreamKey(0, "q"), "e0/0")
    assert edits["e0"] != edits["e1"]


def test_an_image_is_shown_after_any_edit(transformed: Make) -> None:
    mark = {"name": "mark", "boxes": [[0.0, 0.0, 0.5, 1.0]], "style": "color", "opacity": 1.0}
    for where, demos, query in (("query", 0, 1), ("demos", 1, 0), ("all", 1, 1)):
        done = transformed({"name": "image_edit", "edit": mark, "where": where}, "ab")
        assert [len(one.example.images[0].edits) for one in done.demos] == [demos] * 2
        assert len(done.query.images[0].edits) == query
        assert done.provenance == ("images: mark",)
    marked = done.query.images[0].open()
    assert [marked.getpixel((x, 1)) for x in (0, 3)] == [(240, 0, 30), (99, 0, 0)]
    assert done.query.question == "which?"
    random = transformed({"name": "image_edit", "edit": "noise", "where": "demos"}, "ab")
    edits = [demo.example.images[0].edits[0] for demo in random.demos]
    assert edits[0] != edits[1], "each image has random numbers of its own"
    without = transformed({"name": "images", "where": "query"}, "ab")
    assert build("transform", {"name": "image_edit", "edit": mark}).transform(without) is without


def test_permuted_images_all_go_elsewhere(transformed: Make) -> None:
    done = transformed({"name": "images", "how": "permuted"}, "abcd")
    shades = _images(done)
    assert sorted(shades) == [0, 1, 2, 3]
    assert all(place != red for place, red in enumerate(shades))
    assert done.provenance == ("images: permuted, 100% moved",)
    assert (
        len(
            {
                tuple(_images(transformed({"name": "images", "how": "permuted"}, "abcd", query=f"q{i}")))
                for i in range(30)
            }
        )
        > 3
    )


def test_one_image_has_nowhere_to_go_and_the_mark_says_so(transformed: Make) -> None:
    assert transformed({"name": "images", "how": "permuted"}, "a").provenance == ("images: permuted, 0% moved",)


def test_permuting_is_among_demonstrations_alone() -> None:
    with pytest.raises(ConfigError, match="permuted among demonstrations; where is 'all'"):
        build("transform", {"name": "images", "how": "permuted", "where": "all"})


def test_questions_are_permuted_among_demonstrations_alone() -> None:
    build("transform", {"name": "questions", "how": "removed", "where": "all"})
    build("transform", {"name": "questions", "how": "permuted", "where": "demos"})
    with pytest.raises(ConfigError, match="questions are permuted among demonstrations; where is 'query'"):
        build("transform", {"name": "questions", "how": "permuted", "where": "query"})


def test_as_many_values_move_as_can() -> None:
    values, moved = derange(["yes", "yes", "yes", "no"], [2, 0, 3, 1], str)
    assert sorted(values) == ["no", "yes", "yes", "yes"]
    assert moved == 0.5
    assert derange(["yes", "no", "yes", "no"], [3, 1, 0, 2], str) == (["no", "yes", "no", "yes"], 1.0)


def test_questions(transformed: Make) -> None:
    gone = transformed("questions", "ab")
    assert [demo.example.question for demo in gone.demos] == ["", ""]
    assert gone.query.question == "which?"
    swapped = transformed({"name": "questions", "how": "permuted"}, "ab")
    assert {demo.example.id: demo.example.question for demo in swapped.demos} == {"e0": "q1?", "e1": "q0?"}


def test_captions_stand_before_the_question(transformed: Make) -> None:
    done = transformed({"name": "captions", "text": "Image: {caption}. "}, "a", caption="a red square")
    assert done.demos[0].example.question == "Image: a red square. q0?"
    assert done.demos[0].example.images == ()
    assert (done.query.question, len(done.query.images)) == ("which?", 1)


def test_tags_are_listed(transformed: Make) -> None:
    done = transformed({"name": "captions", "key": "tags", "where": "all"}, "a", tags=["red", "square"])
    assert done.query.question == "red, square\nwhich?"


def test_captions_from_a_file_are_identified_by_their_content(transformed: Make, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps({"e0": "one", "e1": "two"}))
    node = {"name": "captions", "file": str(path), "saw_labels": True}
    done = transformed(node, "ab")
    assert [demo.example.question for demo in done.demos] == ["two\nq1?", "one\nq0?"]
    assert done.provenance[0].endswith("saw labels")
    before = describe(build("transform", node))
    path.write_text(json.dumps({"e0": "uno", "e1": "two"}))
    assert describe(build("transform", node)) != before
    with pytest.raises(DataError, match="example 'e2' has no text in "):
        transformed(node, "abc")


def test_a_missing_caption_error_lists_the_facts(transformed: Make) -> None:
    with pytest.raises(DataError, match=r"'e0' has no text among its public facts \(split\) under 'caption'"):
        transformed("captions", "a", split="train")
    with pytest.raises(ConfigError, match="there is no file of captions 'none"):
        build("transform", {"name": "captions", "file": "none.json"})


def test_frames_are_the_middles_of_equal_parts() -> None:
    assert middles(12, 6) == [1, 3, 5, 7, 9, 11]
    assert middles(6, 6) == [0, 1, 2, 3, 4, 5]
    assert middles(2, 6) == [0, 0, 0, 1, 1, 1]


def test_frames_become_one_image_row_by_row() -> None:
    # the smallest frame is 5 wide and 6 high
    frames = tuple(Image.from_pil(PILImage.new("RGB", (5 + i, 9 - i), (40 * i, 0, 0)), f"f{i}") for i in range(4))
    film = Example("film", frames, "?", ("a",))
    still = Example("still", frames[:1], "?", ("a",))
    context = Context(film.query, (Demo(still, 0.5, 0),), StreamKey(0, "film"))
    done = build("transform", {"name": "frame_grid", "frames": 4, "columns": 2, "gap": 1}).transform(context)
    assert done.demos == context.demos
    (sheet,) = (image.open() for image in done.query.images)
    assert sheet.size == (2 * 6 + 1, 2 * 7 + 1)
    assert [sheet.getpixel(at)[0] for at in ((3, 3), (9, 3), (3, 10), (9, 10))] == [0, 40, 80, 120]
    assert sheet.getpixel((0, 0)) == (255, 255, 255)


def test_a_grid_of_edited_images_has_a_digest_that_depends_on_the_edits() -> None:
    plain = tuple(Image.from_pil(PILImage.new("RGB", (6, 6), (40 * i, 0, 0)), f"f{i}") for i in range(2))
    noised = tuple(image.edit(Blank(9, 9, 9)) for image in plain)
    grids = []
    for frames in (plain, noised):
        context = Context(Query("film", frames, "?"), (), StreamKey(0, "film"))
        grids += build("transform", {"name": "frame_grid", "frames": 2}).transform(context).query.images
    assert grids[0].origin != grids[1].origin
    assert grids[1].open().getpixel((5, 5)) == (9, 9, 9)


def test_swapped_images_come_from_the_pool_and_occur_nowhere_else_in_the_prompt() -> None:
    """The pool holds what is shown (0, 1, the query's 99) and two others; each example draws its own."""
    shades = (0, 1, 99, 50, 60)
    pool = Pool(tuple(Example(f"p{i}", (_shade(i),), "?", ("a",)) for i in shades))
    demos = tuple(Demo(Example(f"e{i}", (_shade(i),), f"q{i}?", ("a",)), 0.5, i) for i in range(2))
    node = {"name": "images", "how": "swapped"}
    swaps = set()
    for query in map(str, range(12)):
        context = Context(Example(query, (_shade(99),), "which?", ()).query, demos, StreamKey(0, query))
        done = build("transform", node).fitted(pool, None).transform(context)
        assert set(_images(done)) <= {50, 60}
        assert done.query == context.query
        assert done.provenance == ("images: swapped",)
        swaps.add(tuple(_images(done)))
    assert len(swaps) > 2
    bare = Pool(pool.examples[:3])
    with pytest.raises(PlanError, match="no image that its prompt does not show already"):
        build("transform", node).fitted(bare, None).transform(context)
    with pytest.raises(PlanError, match="swapped with images of the pool"):
        build("transform", node).transform(context)


def _shade(value: int) -> Image:
    return Image.from_pil(PILImage.new("RGB", (4, 4), (value, 0, 0)), f"{value}")
