"""CoBSAT's release: ten tasks, the published prompts, images and captions by their file names."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image as PILImage

from icl.errors import DataError
from icl.metrics.published_rules import CobsatMetric
from icl.registry import build
from icl.tasks.cobsat import WORDS, CobsatImagesTask, _captions, published_prompts
from icl.testing import check_task
from icl.types import Generation
from retrievers import Resources


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `datasets` with the images of styles of objects, in the layout of the release."""
    folder = tmp_path_factory.mktemp("datasets")
    lines = ["image,caption"]
    for i, thing in enumerate(WORDS["object"]):
        (folder / f"style_{thing}").mkdir()
        for j, style in enumerate(WORDS["style"]):
            PILImage.new("RGB", (8, 8), (20 * i, 20 * j, 7)).save(folder / f"style_{thing}" / f"{style}_{thing}.jpg")
            lines.append(f'{style}_{thing}.jpg,"A {thing}, drawn as {style}."')
    (folder / "style_object.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def task(path: Path, **more: Any) -> Any:
    return build("task", {"name": "cobsat_release", "path": str(path), "attribute": "style", "queries": 60, **more})


def test_the_prompts_are_the_published_ones() -> None:
    assert len(published_prompts()) == 1000
    assert published_prompts()[0] == ((8, 7, 5, 9, 2, 3, 6, 1, 4, 0), (7, 6, 3, 4, 1, 0, 2, 5, 9, 8))
    assert published_prompts()[1] == ((7, 4, 3, 6, 2, 1, 0, 8, 5, 9), (3, 4, 8, 1, 9, 2, 7, 6, 5, 0))


@pytest.mark.parametrize("latent", ["object", "attribute"])
def test_demonstrations_share_the_latent_word_and_have_the_images_of_their_words(release: Path, latent: str) -> None:
    cobsat = task(release, latent=latent)
    check_task(cobsat)
    assert cobsat.title == {"object": "CoBSAT Style-I", "attribute": "CoBSAT Style-II"}[latent]
    turn = 1 if latent == "object" else -1
    texts, words = (WORDS["style"], WORDS["object"])[::turn]
    for query in cobsat.queries:
        order, latent_order = published_prompts()[int(query.id.split("-")[1])]
        assert not query.images
        assert query.question.replace("wireframe", "3d") == texts[order[4]]
        pool = cobsat.pool(query.id).examples
        assert {e.secret["latent"] for e in pool} == {query.secret["latent"]}
        for example, place in zip(pool, order, strict=False):
            style, thing = (texts[place], words[latent_order[5]])[::turn]
            assert example.images[0].origin == f"CoBSAT {style}_{thing}.jpg"
            assert example.answer == f"{style} {thing}".replace("3d", "wireframe")


def test_bm25_keeps_the_published_order(release: Path) -> None:
    cobsat = task(release, queries=20)
    for query in cobsat.queries:
        pool = cobsat.pool(query.id)
        fitted = build("retriever", {"name": "bm25"}).fit(pool, Resources())
        (demos,) = fitted.retrieve([query.query], 4)
        assert [demo.id for demo in demos] == [example.id for example in pool.examples]


def test_fewer_demonstrations_are_other_prompts_as_in_the_release(release: Path) -> None:
    two, four = task(release, demonstrations=2), task(release)
    pairs = [(a, b) for a, b in zip(two.queries, four.queries, strict=True) if a.secret["latent"] != b.secret["latent"]]
    assert len(pairs) > 40
    assert all([e.question for e in two.pool(a.id).examples] == [e.question for e in four.pool(b.id).examples][:2]
               for a, b in pairs)  # fmt: skip


def test_texts_can_name_a_misleading_or_the_exact_word(release: Path) -> None:
    exact, misleading = task(release, wording="exact"), task(release, wording="misleading")
    for query in exact.queries:
        assert query.question.endswith(f" {query.secret['latent']}")
    wrong = [q.question.split(" ")[-1] == q.secret["latent"] for q in misleading.queries]
    assert not any(wrong), "the word beside the text is another one"


def test_captions_are_answers_and_words_are_scored(release: Path) -> None:
    query = task(release, answers="captions", latent="attribute").queries[0]
    style, thing = query.secret["latent"], query.secret["text"]
    assert query.answer == f"A {thing}, drawn as {'3d' if style == 'wireframe' else style}."
    metric = CobsatMetric()
    other = next(word for word in query.meta["words"]["text"] if word != thing)
    assert [metric.score(Generation(text), query) for text in (f"a {style} {thing}", f"a {style} {thing}, {other}",
                                                               f"a {thing}")] == [1, 0, 0]  # fmt: skip


def test_files_of_another_release_are_sentences(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"style_object\.csv cannot be read .* give the folder `datasets`"):
        _ = task(tmp_path, answers="captions").queries
    (tmp_path / "style_object.csv").write_text("file,text\na,b\n")
    with pytest.raises(DataError, match="has no column 'image'"):
        _ = task(tmp_path, answers="captions").queries
    (tmp_path / "style_object.csv").write_text("image,caption\na.jpg,b\n")
    _captions.cache_clear()
    with pytest.raises(DataError, match="has no caption of the image"):
        _ = task(tmp_path, answers="captions").queries


def test_a_row_without_a_caption_is_one_sentence(release: Path, tmp_path: Path) -> None:
    (tmp_path / "style_object.csv").write_text("image,caption\nicon_car.jpg\n", encoding="utf-8")
    with pytest.raises(DataError, match="with an image and a caption in each row"):
        _ = task(tmp_path, answers="captions").queries


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An image of one color for each of the first prompts, as another program would make it."""
    for number in range(3):
        PILImage.new("RGB", (8, 8), (80 * number, 0, 7)).save(tmp_path / f"cobsat-{number:04d}.png")
    return tmp_path


def test_each_image_of_another_program_is_asked_for_both_words_of_its_prompt(release: Path, made: Path) -> None:
    for latent in ("object", "attribute"):
        keys = {"attribute": "style", "latent": latent}
        prompts = {
            one.id: one for one in build("task", {"name": "cobsat_release", "path": str(release), **keys}).queries
        }
        images = CobsatImagesTask(path=str(made), attribute="style", latent=latent)
        with mock.patch("icl.tasks.cobsat.PROMPTS", 3):
            check_task(images)
            questions = images.queries
        assert [one.group for one in questions] == [f"cobsat-{n:04d}" for n in (0, 0, 1, 1, 2, 2)]
        for style, thing in zip(questions[::2], questions[1::2], strict=True):
            secret = prompts[str(style.group)].secret
            words = {WORDS["style"][int(style.answer) - 1], WORDS["object"][int(thing.answer) - 1]}
            assert {word.replace("3d", "wireframe") for word in words} == {secret["latent"], secret["text"]}
            assert f"({style.answer}){style.secret['word']}" in style.question
            assert style.images[0].origin == f"CoBSAT {style.group}.png"


def test_missing_images_are_counted(made: Path) -> None:
    with pytest.raises(DataError, match=r"has no image of 997 of 1,000 prompts, such as cobsat-0003\.png"):
        _ = CobsatImagesTask(path=str(made), attribute="style").queries
