"""The recipe: the projector learns the nouns' embeddings, then single images and episodes alternate, with plain text.

    stage A   InfoNCE between an image's mean projection and the input embedding of its noun; no language model
    stage B   likelihood through the language model: one image and its noun or title
    stage C   binding of nouns and of similar drawings, naming beside demonstrations of other nouns, single images
    stage D   as C, and naming where a demonstration of a similar drawing has the right answer, whatever it shows

Every EVERY_TEXT steps a batch of WordNet's definitions keeps the language model near itself (KL divergence). A
checkpoint is written every minute, and the same command continues from it.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from icl.models.small.assemble import WIDTH
from lab.small.drawings_data import DrawingSet
from lab.small.episodes import EpisodeMaker, TrainingTurn
from lab.small.model import SmallModel
from lab.tiny.state import load, moments_of, restore_moments, save

EVERY_TEXT, TEXT_WEIGHT, TEXT_TOKENS, TEXT_ROWS = 6, 1.0, 48, 4
SAVE_SECONDS = 60.0
BINDING_SHAPES = ((2, 1), (2, 1), (2, 2), (2, 2), (2, 4), (3, 1), (3, 2), (4, 1), (4, 2))
"""(nouns, drawings of each) in the demonstrations of a binding sequence."""
STATE = "training.safetensors"


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training.

    Attributes:
        steps: Steps of stages B and C together. One takes about 2.5 s of CPU.
        stage_d_steps: Steps of stage D. Without it, a noun of a demonstration is hardly ever taken for an answer to the
            question of naming, because the model knows the nouns of training by heart.
        stage_d_rate: Learning rates at the beginning of stage D, as a proportion of those of stage B.
        lora: Whether the language model has an adapter.
        stage_b: Share of the steps that stage B takes.
        singles: Sequences of a step with single images.
        turns: Images of a step with longer sequences. All its sequences have one length, so that no place is padding.
        similar: Proportion of the binding steps that group drawings by similarity in place of nouns.
        dropout: Proportion of the features' channels that a step of stages B and C does not see.
        stage_d_dropout: The same in stage D.
    """

    steps: int = 900
    stage_d_steps: int = 200
    stage_d_rate: float = 0.3
    seed: int = 0
    lora: bool = True
    stage_a_steps: int = 300
    stage_b: float = 0.15
    singles: int = 24
    turns: int = 44
    similar: float = 0.3
    dropout: float = 0.1
    stage_d_dropout: float = 0.4
    projector_rate: float = 5e-4
    adapter_rate: float = 1e-3


class Training:
    """A training that can be continued.

    Args:
        out: Folder of `training.safetensors`.
        text: Token ids of plain text, [rows, TEXT_TOKENS].
    """

    def __init__(self, recipe: Recipe, model: SmallModel, data: DrawingSet, text: Tensor, out: Path) -> None:
        self.recipe, self.model, self.data, self.text, self.out = recipe, model, data, text, out
        self.rng = Random(recipe.seed)
        self.maker = EpisodeMaker(data.train, data.similar, [one.title for one in data.drawings])
        self.nouns = list(data.train)
        self.weights = [len(data.train[noun]) ** 0.5 for noun in self.nouns]
        adapter = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("projector")]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(model.projector.parameters()), "lr": recipe.projector_rate},
                {"params": adapter, "lr": recipe.adapter_rate},
            ],
            weight_decay=0.01,
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.losses = 0, dict[str, float]()

    def run(self) -> None:
        """Trains to the end, and writes `training.safetensors` on the way."""
        if not self.resume():
            self._stage_a()
        saved = time.monotonic()
        while self.step < self.recipe.steps + self.recipe.stage_d_steps:
            self._train_step()
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()

    def _stage_a(self) -> None:
        table = self.model.table.float()
        names = torch.stack([table[self.model.token_ids(f" {noun}")].mean(0) for noun in self.nouns])
        center = names.mean(0)
        targets = functional.normalize(names - center, dim=1)
        optimizer = torch.optim.AdamW(self.model.projector.parameters(), lr=1e-3, weight_decay=0.02)
        for _ in range(self.recipe.stage_a_steps):
            chosen = self.rng.choices(range(len(self.nouns)), self.weights, k=96)
            images = [self.rng.choice(self.data.train[self.nouns[i]]) for i in chosen]
            mean = self.model.project(self.data.features[images]).mean(1)
            loss = functional.cross_entropy(
                functional.normalize(mean - center, dim=1) @ targets.T * 20, torch.tensor(chosen)
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
            optimizer.step()
        self._report("A", float(loss.detach()))

    def _train_step(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self._rate()
        kind, sequences = self._sequences()
        loss = self.model.loss(self.model.batch(sequences, self.data.features, self._channels()))
        self._report(kind, float(loss.detach()))
        if self.recipe.lora and self.step % EVERY_TEXT == 0:
            rows = [self.rng.randrange(len(self.text)) for _ in range(TEXT_ROWS)]
            drift = self.model.drift(self.text[rows])
            self._report("text", float(drift.detach()))
            loss = loss + TEXT_WEIGHT * drift
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss of step {self.step} is {float(loss)}. The last good state is in {self.out}.")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.step += 1

    @property
    def _in_stage_b(self) -> bool:
        return self.step <= self.recipe.stage_b * self.recipe.steps

    @property
    def _in_stage_d(self) -> bool:
        return self.step >= self.recipe.steps

    def _rate(self) -> float:
        """The step's learning rate as a proportion of the recipe's."""
        if self._in_stage_d:
            return self.recipe.stage_d_rate * (1 - 0.95 * (self.step - self.recipe.steps) / self.recipe.stage_d_steps)
        return min(1.0, (self.step + 1) / 10) * (1 - 0.95 * self.step / self.recipe.steps)

    def _channels(self) -> Tensor:
        """Which channels the step sees, scaled so that the mean stays: [WIDTH]."""
        dropout = self.recipe.stage_d_dropout if self._in_stage_d else self.recipe.dropout
        generator = torch.Generator().manual_seed(self.rng.getrandbits(63))
        visible = torch.rand(WIDTH, generator=generator) >= dropout
        return visible / (1 - dropout)

    def _sequences(self) -> tuple[str, list[list[TrainingTurn]]]:
        rng, maker, turn, in_stage_b = self.rng, self.maker, self.step % 4, self._in_stage_b
        if self._in_stage_d and turn == 3:
            shots = rng.choice((2, 2, 3, 4))
            count = self.recipe.turns // (shots + 1)
            return "similar nouns", [maker.naming_of_similar(rng, shots) for _ in range(count)]
        if not in_stage_b and turn in (1, 3):
            ways, shots = rng.choice(BINDING_SHAPES)
            similar = rng.random() < self.recipe.similar
            make = maker.binding_of_similar if similar else maker.binding
            count = self.recipe.turns // (ways * shots + 1)
            return "similar" if similar else "binding", [make(rng, ways, shots) for _ in range(count)]
        if not in_stage_b and turn == 2:
            shots = rng.choice((1, 2, 3, 4))
            nouns = rng.choices(self.nouns, self.weights, k=self.recipe.turns // (shots + 1))
            return "beside others", [maker.beside_others(rng, noun, shots) for noun in nouns]
        nouns = rng.choices(self.nouns, self.weights, k=self.recipe.singles)
        return "single", [maker.single(rng, noun) for noun in nouns]

    def _report(self, kind: str, loss: float) -> None:
        before = self.losses.get(kind, loss)
        self.losses[kind] = 0.95 * before + 0.05 * loss
        if self.step % 20 == 0:
            losses = "  ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
            print(f"step {self.step:5}  {time.process_time() / 60:5.1f} CPU min  {losses}", flush=True)

    def _save(self) -> None:
        notes = {
            "recipe": asdict(self.recipe),
            "rng": self.rng.getstate(),
            "step": self.step,
            "losses": self.losses,
        }
        save(self.out / STATE, self._trained() | moments_of([self.optimizer]), notes)

    def _trained(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def resume(self) -> bool:
        """Reads the state of an interrupted training with the same recipe."""
        file = self.out / STATE
        if not file.exists():
            return False
        tensors, notes = load(file)
        if notes["recipe"] != asdict(self.recipe):
            raise RuntimeError(f"{file} is a training with another recipe: {notes['recipe']}. Use another --out.")
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(tensors[name])
        restore_moments([self.optimizer], tensors)
        version, internal, gauss = notes["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.step, self.losses = notes["step"], notes["losses"]
        return True
