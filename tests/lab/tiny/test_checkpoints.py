"""The shipped checkpoints load with Auto classes and reach their goals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from icl.tasks.generated.world import HELD_OUT_CONCEPTS
from lab.tiny.__main__ import CHECKPOINTS, MODEL
from lab.tiny.captions import mentioned
from lab.tiny.encoder import tokens
from lab.tiny.evaluate import count_right, embeddings
from lab.tiny.index import PoolIndex
from lab.tiny.layout import PromptLayout, TokenTurn
from lab.tiny.lessons import ask, attribute, bind, operator
from lab.tiny.pool import ImagePool, make_pool
from lab.tiny.precision import alone, mixed_sequences
from lab.tiny.probes import support
from lab.tiny.runner import CheckpointRunner


@pytest.fixture(scope="module")
def pool() -> ImagePool:
    return make_pool(77, 2500)


@pytest.fixture(scope="module")
def runner() -> CheckpointRunner:
    torch.set_num_threads(1)
    return CheckpointRunner(CHECKPOINTS / "vlm")


@pytest.fixture(scope="module")
def features(runner: CheckpointRunner, pool: ImagePool) -> torch.Tensor:
    return runner.features(pool.images)


def folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_checkpoints_are_small_and_hold_no_code_or_pickle() -> None:
    assert folder_size(CHECKPOINTS / "vlm") <= 12e6
    assert folder_size(CHECKPOINTS / "encoder") <= 6e6
    kinds = {file.suffix for file in CHECKPOINTS.rglob("*") if file.is_file()}
    assert kinds <= {".safetensors", ".json", ".jinja"}
    assert "auto_map" not in json.loads((CHECKPOINTS / "vlm" / "config.json").read_text())


def test_it_binds_names_follows_rules_and_answers_questions(
    runner: CheckpointRunner, pool: ImagePool, features: torch.Tensor
) -> None:
    index, rng = PoolIndex(pool), np.random.default_rng(1)
    sets: dict[str, tuple[list[list[TokenTurn]], bool, float]] = {
        "binding": ([bind(rng, index, 2, 9, concepts=HELD_OUT_CONCEPTS, balanced=True) for _ in range(60)], True, 0.90),
        "operators": ([operator(rng, index, 5) for _ in range(60)], False, 0.80),
        "attribute": ([attribute(rng, index, 5) for _ in range(60)], False, 0.80),
        "yes/no": ([ask(rng, index, 1, "plain_yes_no") for _ in range(60)], False, 0.85),
    }
    for name, (sequences, among, least) in sets.items():
        right, n = count_right(runner.logits(sequences, features, PromptLayout()), sequences, among)
        assert right / n >= least, (name, right / n)


def test_a_padded_batch_scores_as_single_prompts(
    runner: CheckpointRunner, pool: ImagePool, features: torch.Tensor
) -> None:
    sequences = mixed_sequences(PoolIndex(pool), 16)
    batched = runner.logits(sequences, features, PromptLayout())
    single = torch.stack([alone(runner, turns, pool) for turns in sequences])
    torch.testing.assert_close(batched, single, atol=2e-4, rtol=0)
    assert torch.equal(batched.argmax(-1), single.argmax(-1))


def test_generate_describes_a_scene(runner: CheckpointRunner, pool: ImagePool, features: torch.Tensor) -> None:
    index = PoolIndex(pool)
    turns = [
        [TokenTurn(int(p), tuple(runner.processor.tokenizer("describe the picture.")["input_ids"]), ())]
        for p in index.kind["scene"][:8]
    ]
    texts = runner.generate(turns, features, PromptLayout(), 32)
    assert all(text.startswith("there ") and text.rstrip(".").endswith("in the picture") for text in texts)
    assert all(mentioned(text) for text in texts)


def test_a_prompt_without_images_is_answered(runner: CheckpointRunner) -> None:
    inputs = runner.processor(text=["<q>what color is the circle?<a>"], return_tensors="pt")
    out: Any = runner.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_nearest_images_share_the_concept(runner: CheckpointRunner, pool: ImagePool, features: torch.Tensor) -> None:
    image_embeddings, index = embeddings(CHECKPOINTS / "encoder", pool.images), PoolIndex(pool)
    nearest, chance = (support(index, image_embeddings, 4, near, 60) for near in (True, False))
    shared = {True: 0.0, False: 0.0}
    for near, sequences in ((True, nearest), (False, chance)):
        shared[near] = float(np.mean([demo.answer == turns[-1].answer for turns in sequences for demo in turns[:-1]]))
    assert shared[True] >= shared[False] + 0.4


def test_the_encoder_ranks_captions() -> None:
    from transformers import AutoModel, AutoProcessor

    model, processor = (
        AutoModel.from_pretrained(CHECKPOINTS / "encoder").eval(),
        AutoProcessor.from_pretrained(CHECKPOINTS / "encoder"),
    )
    pool = make_pool(6, 40, {"plain": 1.0})
    index = PoolIndex(pool)
    texts = [f"a {color} {shape}" for color, shape in sorted({index.concept(i) for i in range(len(pool))})]
    inputs = processor(
        text=texts, images=[PILImage.fromarray(p) for p in pool.images], return_tensors="pt", padding=True
    )
    assert torch.equal(inputs["input_ids"], tokens(texts)[0])
    with torch.no_grad():
        best = model(**inputs).logits_per_image.argmax(-1)
    right = [texts[int(best[i])] == "a {} {}".format(*index.concept(i)) for i in range(len(pool))]
    assert np.mean(right) >= 0.85
    assert MODEL.name == "tiny"
