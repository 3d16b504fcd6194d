"""The training of the maps of `efficientnet_minilm`, on random vectors."""

from random import Random

import numpy as np
import torch
from torch.nn import functional

from icl.models.small.assemble import PLACES, WIDTH
from icl.tasks.drawings.table import DrawingRecord, is_held_out
from lab.small import encoder
from lab.small.drawings_data import DrawingSet, split
from lab.small.encoder import CARD_TEXT, EncoderData, contrastive_loss, recall, train_maps, without_part
from retrievers.base import normalize_rows
from retrievers.embedders.efficientnet import MAPS

AUTHORS = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Fay", "Gil", "Hal")


def encoder_data() -> EncoderData:
    """Drawings whose images and titles are noisy functions of the same numbers; each noun has seven drawings."""
    rng = np.random.default_rng(0)
    nouns = [f"noun{i}" for i in range(40)]
    styles = ("openclipart", "openclipart", "noto", "tuxpaint", "twemoji", "fluent", "openclipart")
    drawings = tuple(
        DrawingRecord(
            f"{noun}-{i}", "", style, f"{noun} no {i}", (), Random(f"{noun}{i}").choice(AUTHORS), "", noun, "food"
        )
        for noun in nouns
        for i, style in enumerate(styles)
    )
    hidden = {noun: rng.standard_normal(8) for noun in nouns}
    to_image, to_text = rng.standard_normal((8, WIDTH)), rng.standard_normal((8, 384))
    means = np.stack([hidden[one.noun] @ to_image + 0.3 * rng.standard_normal(WIDTH) for one in drawings])
    features = torch.from_numpy(np.concatenate([means, np.zeros((1, WIDTH))])).half()[:, None].repeat(1, PLACES, 1)
    train, held_out, test = split(drawings)
    data = EncoderData(DrawingSet(drawings, features, train, {}, held_out, test))
    vectors = {text: hidden[text.split()[0].rstrip(",")] @ to_text for texts in data.texts for text in texts}
    rows = normalize_rows(np.stack(list(vectors.values())))
    data.__dict__["text_vectors"] = dict(zip(vectors, rows, strict=True))
    return data


def test_pairs_of_one_name_share_the_target() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    distinct = functional.cross_entropy(logits, torch.arange(4)) + functional.cross_entropy(logits.T, torch.arange(4))
    assert torch.allclose(contrastive_loss(logits, ["a", "b", "c", "d"]), distinct)
    by_rows, by_columns = logits.log_softmax(1), logits.log_softmax(0)
    same = by_rows[0, :2].mean() + by_rows[1, :2].mean() + by_columns[:2, 0].mean() + by_columns[:2, 1].mean()
    rest = by_rows[2, 2] + by_rows[3, 3] + by_columns[2, 2] + by_columns[3, 3]
    assert torch.allclose(contrastive_loss(logits, ["a", "a", "c", "d"]), -(same + rest) / 4)


def test_training_has_no_stamp_of_tuxpaint_no_held_out_noun_and_no_test_drawing() -> None:
    data = encoder_data()
    drawings = [data.data.drawings[i] for i in data.train]
    assert data.data.held_out
    assert not any(one.style == "tuxpaint" or is_held_out(one.noun) for one in drawings)
    assert not set(data.train) & {i for indices in data.data.test.values() for i in indices}


def test_no_author_is_in_training_and_test() -> None:
    data = encoder_data()
    train, test = without_part(data, lambda one: one.author)
    drawings = data.data.drawings
    of_train = {drawings[i].author for i in train if drawings[i].style == "openclipart"}
    assert test
    assert sorted(train + test) == sorted(data.train)
    assert not of_train & {drawings[i].author for i in test}


def test_maps_bring_an_image_near_its_title_also_for_nouns_that_they_never_saw(monkeypatch) -> None:
    monkeypatch.setattr(encoder, "STEPS", 60)
    monkeypatch.setattr(encoder, "TOP", 3)
    data = encoder_data()
    by_style = [next(i for i in indices) for indices in data.data.held_out.values()]
    trained = train_maps(data, data.train, seed=0)
    again = train_maps(data, data.train, seed=0)
    assert all(np.array_equal(trained[name], again[name]) for name in trained)
    rest = [indices[0] for indices in data.data.test.values()]
    gallery = data.gallery([*by_style, *rest])
    for right in recall(data, trained, gallery).values():
        assert np.mean(right) > 0.6 > 2 * 3 / len(gallery)


def test_the_shipped_card_is_the_one_that_training_writes() -> None:
    card = MAPS.with_suffix(".md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in card.splitlines() if line.startswith("| ") and not line.startswith("| figure"))
    expected = CARD_TEXT.format(
        drawings=6854, rows=rows, top=encoder.TOP, seeds=len(encoder.SEEDS), gallery=encoder.GALLERY
    )
    assert card == expected
