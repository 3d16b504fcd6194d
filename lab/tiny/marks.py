"""The adapters `tiny_inconsistency` and `tiny_correspondence`: questions about numbered and boxed shapes.

The tower of the tiny model was not trained on marks, and LoRA matrices from zero learn nothing here. So a first stage
trains all weights on both tasks in turn. From its matrices, with all other weights as shipped, a second stage trains
the linear layers on each task. An adapter is the best approximation of rank 32 of the change of each layer, by its
singular values. The card is `icl/models/tiny/adapters/CARD.md`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from icl import Example, Image, build
from icl.models.hf.adapter import ADAPTERS, WEIGHTS
from lab.tiny.stages import ship
from lab.tiny.state import rate

VLM = Path(__file__).parents[2] / "icl" / "models" / "tiny" / "checkpoints" / "vlm"
RANK, BATCH, TAIL, IGNORED = 32, 64, 3, -100
"""Rank of the adapters; questions a step; positions of the loss; the label of other positions."""


@dataclass(frozen=True)
class Stage:
    """One training. lr: the highest rate, after 50 steps; a cosine leads to zero."""

    tasks: tuple[str, ...]
    seed: int
    lr: float
    steps: int


MARKS = Stage(("correspondence", "inconsistency"), 2, 1e-3, 2000)
STAGES: Mapping[str, Stage] = {
    "correspondence": Stage(("correspondence",), 3, 7e-4, 1500),
    "inconsistency": Stage(("inconsistency",), 3, 7e-4, 300),
}
"""Name -> second stage."""


def ship_all(out: Path) -> None:
    """Trains in a folder, and replaces the shipped adapters. A stage that has finished is not trained again."""
    out.mkdir(parents=True, exist_ok=True)
    model, processor = loaded()
    shipped = {name: one.clone() for name, one in model.state_dict().items()}
    model.load_state_dict(trained(model, processor, MARKS, out / "marks.safetensors"))
    layers = linear_layers(model)
    matrices = {name: one.clone() for name, one in model.state_dict().items() if name.removesuffix(".weight") in layers}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in matrices)
    for task, stage in STAGES.items():
        model.load_state_dict(shipped | matrices)
        after = trained(model, processor, stage, out / f"{task}.safetensors")
        write_adapter({name: after[f"{name}.weight"] - shipped[f"{name}.weight"] for name in layers}, out / task)
        ship(out / task, ADAPTERS / task)


def loaded() -> tuple[Any, Any]:
    """The shipped model and its processor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(VLM), AutoProcessor.from_pretrained(VLM)


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers of tower, connector and decoder, without the output layer."""
    modules = model.named_modules()
    return [name for name, one in modules if isinstance(one, nn.Linear) and "lm_head" not in name]


def trained(model: Any, processor: Any, stage: Stage, path: Path) -> dict[str, Tensor]:
    """The weights after a stage: those of a file, or else trained and written there."""
    if not path.exists():
        train(model, processor, stage)
        save_file({name: one.contiguous() for name, one in model.state_dict().items()}, path)
    weights: dict[str, Tensor] = load_file(path)
    return weights


def train(model: Any, processor: Any, stage: Stage) -> None:
    """Trains the parameters that need a gradient."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for step, questions in enumerate(batches(stage)):
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * rate(step, stage.steps, 50)
        optimizer.zero_grad()
        loss = answer_loss(model, encoded(processor, questions))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(
                f"{', '.join(stage.tasks)}: step {step + 1}/{stage.steps} loss {np.mean(losses[-100:]):.3f}", flush=True
            )


def batches(stage: Stage) -> Iterator[list[Example]]:
    """The questions of each step, all different. The tasks take turns."""
    tasks = [build("task", {"name": name, "queries": 1, "seed": stage.seed}) for name in stage.tasks]
    for step in range(stage.steps):
        numbers = range(step * BATCH, (step + 1) * BATCH)
        yield [tasks[step % len(tasks)].example("query", number, f"q{number}") for number in numbers]


def encoded(processor: Any, questions: Sequence[Example]) -> dict[str, Tensor]:
    """Prompts with their answers, padded on the left: `input_ids`, `attention_mask`, `pixel_values` and `labels`."""
    encode = processor.tokenizer.encode
    image = processor(text="<image>", images=[questions[0].images[0].open()])["input_ids"][0]
    rows = []
    for one in questions:
        prompt = [*encode("<q>", add_special_tokens=False), *image * len(one.images)]
        prompt += encode(f"{one.question}<a>", add_special_tokens=False)
        rows.append((prompt, encode(f"{one.answer}<end>", add_special_tokens=False)))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), IGNORED)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, width - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
        labels[i, width - len(answer) :] = torch.tensor(answer)
    lengths = torch.tensor([len(prompt) + len(answer) for prompt, answer in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(width) >= width - lengths[:, None]).long(),
        "pixel_values": torch.stack([torch.stack([pixels(image) for image in one.images]) for one in questions]),
        "labels": labels,
    }


def pixels(image: Image) -> Tensor:
    """[3, H, W] from -1 to 1, as the model's image processor gives them."""
    array = np.array(image.open().convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1


def answer_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    inputs = {name: one for name, one in batch.items() if name != "labels"}
    logits = model(**inputs, logits_to_keep=TAIL + 1).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, -TAIL:].flatten(), ignore_index=IGNORED)


def write_adapter(changes: Mapping[str, Tensor], folder: Path) -> None:
    """Writes LoRA matrices whose product is the best approximation, of rank `RANK`, of the change of each layer."""
    from peft import LoraConfig

    tensors = {}
    for name, change in changes.items():
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        root = values[:RANK].sqrt()
        tensors[f"base_model.model.{name}.lora_A.weight"] = root[:, None] * right[:RANK]
        tensors[f"base_model.model.{name}.lora_B.weight"] = left[:, :RANK] * root
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / WEIGHTS[0])
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(changes), base_model_name_or_path="tiny")
    config.save_pretrained(str(folder))
