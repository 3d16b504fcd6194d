"""A resumed run has exactly the weights of an uninterrupted one; guides have the right targets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lab.tiny import joint, state, train, vision
from lab.tiny.decoder import Decoder, DecoderShape
from lab.tiny.guides import attention_guide, guide_loss, number_lessons
from lab.tiny.index import PoolIndex
from lab.tiny.layout import Batch, PromptLayout
from lab.tiny.lessons import ask, bind
from lab.tiny.pool import make_pool
from lab.tiny.tower import Tower, TowerShape, tokens_of
from lab.tiny.vocabulary import ID, TOKENS


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tower() -> Tower:
    torch.manual_seed(0)
    return Tower(TowerShape()).eval()


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, tower: Tower) -> None:
    def run(folder: str, stop_after: int | None = None) -> None:
        out = tmp_path / folder / "decoder.safetensors"
        train.train(out, tower, 3, 3, images=900, save_every=1, stop_after=stop_after)

    run("whole")
    run("killed", stop_after=2)
    assert not (tmp_path / "killed" / "decoder.safetensors").exists()
    run("killed")
    whole, resumed = (state.load(tmp_path / f / "decoder.safetensors")[0] for f in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "killed" / "decoder.run.safetensors").exists()


def test_the_joint_phase_moves_tower_and_decoder_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def run(folder: str, stop_after: int | None = None) -> tuple[Tower, Decoder]:
        torch.manual_seed(1)
        tower, decoder = Tower(TowerShape()), Decoder(DecoderShape(len(TOKENS)))
        out = tmp_path / folder / "joint.safetensors"
        joint.train_together(out, tower, decoder, 3, steps=3, images=900, save_every=1, stop_after=stop_after)
        return tower, decoder

    tower, decoder = run("whole")
    run("killed", stop_after=2)
    run("killed")
    whole, resumed = (state.load(tmp_path / f / "joint.safetensors")[0] for f in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    torch.manual_seed(1)
    before, untrained = Tower(TowerShape()), Decoder(DecoderShape(len(TOKENS)))
    assert not torch.equal(tower.patch_embedding.weight, before.patch_embedding.weight)
    assert not torch.equal(decoder.lm_head.weight, untrained.lm_head.weight)
    joint.load_both(tmp_path / "whole" / "joint.safetensors", before, untrained)
    assert torch.equal(tower.proj.weight, before.proj.weight)
    assert torch.equal(decoder.mix.weight, untrained.mix.weight)


def test_a_batch_reads_each_distinct_image_once() -> None:
    torch.manual_seed(0)
    tower, calls = Tower(TowerShape()).eval(), []
    tower.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    images = torch.from_numpy(make_pool(8, 4).images)
    tokens = joint.image_tokens(tower, images, np.array([3, 1, 3]))
    assert calls == [2]
    assert torch.equal(tokens[0], tokens[2])
    assert torch.allclose(tokens[1], tower(images[1:2])[0], atol=0.05)


def test_a_saved_tower_loads_with_the_same_tokens(tmp_path: Path) -> None:
    trained = vision.train(tmp_path / "tower.safetensors", steps=2, batch=8, images=60, checked=50)
    images = torch.from_numpy(make_pool(8, 4).images)
    assert torch.equal(tokens_of(trained, images), tokens_of(vision.load_tower(tmp_path / "tower.safetensors"), images))


def test_the_rate_rises_stays_and_falls() -> None:
    assert [state.rate(step, 1000, 4, flat=0.1) for step in (0, 1, 3, 50, 100)] == [0.25, 0.5, 1, 1, 1]
    assert state.rate(550, 1000, 4, flat=0.1) == pytest.approx(0.5)
    assert state.rate(1000, 1000, 4) == pytest.approx(0)
    assert state.rate(1000, 1000, 4, floor=0.01) == 0.01


def test_a_guide_is_the_missing_attention_mass() -> None:
    q = torch.zeros(1, 1, 4, 32)
    k = torch.zeros(1, 1, 4, 32)
    mass = attention_guide((q, k), 0, [(0, 3, (1,)), (0, 1, (0, 1))])  # uniform: 1/4 of the mass, then all of it
    assert mass.item() == pytest.approx((np.log(4) + 0) / 2, abs=1e-6)
    assert attention_guide((q, k), 0, []).item() == 0


def test_guides_and_number_lessons_mark_true_positions() -> None:
    pool = make_pool(2, 900)
    index, rng = PoolIndex(pool), np.random.default_rng(0)
    batch = Batch([ask(rng, index, 5, "existence") for _ in range(4)], PromptLayout())
    for row, position, target in number_lessons(batch, index).tolist():
        mark = next(m for m in batch.rows[row].marks if position in m.keys)
        assert TOKENS[target].isdigit()
        assert mark.image < position < mark.slot
    batch = Batch([bind(rng, index, 2, 5) for _ in range(2)], PromptLayout())
    model, keep = Decoder(DecoderShape(len(TOKENS))), []  # type: ignore[var-annotated]
    features = torch.randn(len(pool), 160)
    model(torch.from_numpy(batch.tokens), torch.from_numpy(batch.image_at), features[batch.images], keep)
    assert guide_loss(keep, batch, index).item() > 0
    assert ID["<image>"] in batch.tokens[0]
