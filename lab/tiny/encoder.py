"""The image-text encoder: a small CLIP, its vision half started from the tower, trained on images and captions.

A batch has captions of one form: "short" names the concept (color and shape), "long" all that the image shows.
Images with the same caption are each other's positives, so that nearest images share color and shape first.
"""

import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from icl.tasks.generated import wording as w
from icl.tasks.generated.world import TRAINING_CONCEPTS, Kind, ShapeGroup
from lab.tiny import state, vocabulary
from lab.tiny.index import PoolIndex
from lab.tiny.pool import COLUMN, make_pool
from lab.tiny.tower import Tower

MAX_TEXT = 48
MIX: dict[Kind, float] = {"single": 0.45, "plain": 0.2, "count": 0.15, "scene": 0.15, "digits": 0.05}
HEADS = {"color": 10, "shape": 8}  # linear readers of the image's embedding, as an auxiliary loss


def config_of(tower: Tower) -> CLIPConfig:
    """A CLIP whose vision half has the tower's sizes."""
    common = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "projection_dim": 96}
    return CLIPConfig(
        projection_dim=96,
        text_config={
            "vocab_size": len(vocabulary.TOKENS),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_TEXT,
            "pad_token_id": vocabulary.PAD,
            "bos_token_id": vocabulary.USER,
            "eos_token_id": vocabulary.END,
            **common,
        },
        vision_config={**tower.shape.settings, **common},
    )


def build(tower: Tower) -> CLIPModel:
    """A CLIP whose vision layers, patches and positions are the tower's (the patches' bias joins the positions)."""
    model = CLIPModel(config_of(tower))
    mine = tower.state_dict()
    vision = model.vision_model.state_dict()
    for name, value in mine.items():
        if name.startswith("layers"):
            vision[f"encoder.{name}"] = value
    vision["embeddings.patch_embedding.weight"] = mine["patch_embedding.weight"]
    vision["embeddings.position_embedding.weight"][1:] = (
        mine["position_embedding.weight"] + mine["patch_embedding.bias"]
    )
    model.vision_model.load_state_dict(vision)
    nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=0.5)
    return model


def caption(index: PoolIndex, image: int, long: bool) -> str:
    """A caption of one image; the short one of a single concept is "a red circle"."""
    groups = [ShapeGroup(*group) for group in index.groups[image]]
    if not groups:
        return f"{index.fact(image, 'left')} ? {index.fact(image, 'right')}"
    if len(groups) > 1 or (long and index.fact(image, "count") > 1):
        return w.caption(groups)
    parts = [groups[0].color, groups[0].shape]
    if long:
        named = {name: index.fact(image, name) for name in ("texture", "size", "place")}
        texture, size, place = (w.VALUES[name][v] if v >= 0 else "" for name, v in named.items())
        parts = [word for word in (size, texture, *parts) if word] + ([f"at the {place}"] if place else [])
    return w.with_article(" ".join(parts))


def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
    """ids and mask [B, T], <end> after each text, padded on the right, as the shipped tokenizer does."""
    rows = [[*vocabulary.encode(text), vocabulary.END] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), vocabulary.PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, (ids != vocabulary.PAD).long()


def contrastive(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy both ways between cosines and `same` (bool [B, B]: equal captions), float32 scalar."""
    logits = scale.exp().clamp(max=50) * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    target = same.float() / same.float().sum(-1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train(  # noqa: PLR0917
    out: Path,
    tower: Tower,
    seed: int = 0,
    steps: int = 1600,
    batch: int = 128,
    images: int = 60_000,
    lr: float = 1e-3,
) -> CLIPModel:
    """Trains and saves the checkpoint folder to `out`; a saved run next to it continues."""
    running = out.with_name(out.name + ".run.safetensors")
    torch.manual_seed(seed)
    rng = np.random.default_rng((11, seed))
    pool = make_pool(5000 + seed, images, MIX, TRAINING_CONCEPTS)
    index, x, facts = PoolIndex(pool), torch.from_numpy(pool.images), torch.from_numpy(pool.facts)
    model, heads = build(tower), nn.Linear(96, sum(HEADS.values()))
    both = nn.ModuleList([model, heads])
    optimizer = torch.optim.AdamW(both.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    first = state.load_run(running, both, [optimizer], rng)
    start = time.time()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * state.rate(step, steps, 100, floor=0.01)
        chosen, long = rng.integers(0, len(pool), batch), rng.random() < 0.4
        texts = [caption(index, int(p), bool(long)) for p in chosen]
        same = torch.from_numpy(np.array(texts)[:, None] == np.array(texts)[None])
        ids, mask = tokens(texts)
        with torch.autocast("cpu", torch.bfloat16):
            pixels = x[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1
            outputs = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
            read = heads(outputs.image_embeds).float() * 10
        loss = contrastive(outputs.image_embeds, outputs.text_embeds, model.logit_scale, same)
        at = 0
        for name, classes in HEADS.items():
            target = facts[chosen, COLUMN[name]]
            loss = loss + 0.3 * F.cross_entropy(read[:, at : at + classes], target, ignore_index=-1)
            at += classes
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0:
            left = (time.time() - start) / (step + 1 - first) * (steps - step - 1)
            print(f"encoder step {step + 1}/{steps} loss {loss.item():.3f} {left / 60:.1f} min left", flush=True)
            state.save_run(running, both, [optimizer], rng, step + 1)
    save(model.eval(), out)
    running.unlink(missing_ok=True)
    return model


def save(model: CLIPModel, out: Path) -> None:
    """Write model, tokenizer (which ends texts by <end> and pads on the right) and image processor."""
    model.save_pretrained(out)
    words = vocabulary.tokenizer(MAX_TEXT)
    words.padding_side = "right"
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", vocabulary.END)]
    )
    images = CLIPImageProcessor(
        size={"height": 64, "width": 64},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )
    CLIPProcessor(images, words).save_pretrained(out)
