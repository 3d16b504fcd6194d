"""SAVAA: attention to the image is amplified at each step by the risk that the last step was a hallucination.

Zhang et al., SAVAA: Mitigating Hallucinations in LVLMs via Step-wise Adaptive Visual Attention Amplification, 2026
(arXiv 2602.13600; AdaVBoost in its first version).

    G(v)   = max over tokens i of the image of softmax(z_i)[v]           z_i: logits of the model at the token
    VGE    = alpha H(p) / log V + (1 - alpha) (1 - G(argmax p))          p: predicted at the token before
    risk   = min(1, VGE / scale)
    m      = 1 + (visual - 1) risk
    s'     = m s for keys of the image, s / text for other tokens of the prompt, if m > 1
                                                       s: logits of attention, before the softmax

This acts at generated tokens, in layers first to last. So an answer's first token, such as "yes", is that of the model
without it. A factor on a logit raises attention only if the logit is positive: a negative one is lowered.

The controls have the risks that the method itself has over its greedy answer, at most `steps` of them: their mean at
each step, as the methods with a fixed factor that the paper compares, or the same risks in a random order.

Differs from the released code in two points: the image tokens are those of the query's images, without what is between
them, and images of demonstrations keep their scores (the release has one image). As in the release, "predicted" means
the token with the highest logit, even when sampling.

Presets. llava, qwen, internvl: the released settings, for models of 32 or 36 layers. Defaults: those of llava, in all
layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from decoding import SteeringMethod, attention_problem, entropy, score_sites, tensor_digest
from icl import (
    Count,
    Fraction,
    Keys,
    Model,
    Positive,
    PositiveInt,
    Prompt,
    Site,
    Tensor,
    Where,
    canonical_digest,
    component,
    describe,
    spans,
    steer,
    torch,
)
from icl.models.hf.model import HF


def grounding(logits: Tensor) -> Tensor:
    """How well an image supports each token of the vocabulary: logits at its tokens [m, V] -> [V] in [0, 1]."""
    return logits.softmax(-1).amax(0)


def visual_grounding_entropy(logits: Tensor, supported: Tensor, alpha: float) -> Tensor:
    """VGE of predictions [n, V], given the image's support [V]: [n] in [0, 1]. alpha: weight of the entropy."""
    share = entropy(logits)[:, 0] / torch.tensor(float(logits.shape[-1])).log()
    return alpha * share + (1 - alpha) * (1 - supported[logits.argmax(-1)])


def amplified(scores: Tensor, image: Tensor, text: Tensor, factors: Tensor, text_factor: float) -> Tensor:
    """Scores times a factor of each token, for keys of the image, and over a constant, for keys of the text.

    Args:
        scores: [n, H, K].
        image: Which keys are of the image [K].
        text: Which keys are of the prompt's text [K].
        factors: For the image, of each token that attends [n]. With 1, its row is left as it is.
        text_factor: What the scores of text are divided by.
    """
    by_row = factors[:, None, None]
    new = torch.where(image, scores * by_row, torch.where(text, scores / text_factor, scores))
    return torch.where(by_row > 1, new, scores)


@dataclass(frozen=True, eq=False)
class Amplified:
    """An intervention that amplifies attention to an image by the risk of the step before.

    Attributes:
        method: The method, with its numbers.
        score_sites: Where it acts.
        supported: G [V].
        image: Tokens of the image.
        text: Other tokens of the prompt, without images.
        risks: Constant risks in place of VGE, for the steps in turn. Empty: VGE.
    """

    method: "SAVAA"
    score_sites: tuple[Site, ...]
    supported: Tensor
    image: tuple[int, ...]
    text: tuple[int, ...]
    risks: tuple[float, ...] = ()
    keys: Keys = field(default_factory=Keys)
    where: ClassVar[Where] = Where(part="answer")
    neutral: ClassVar[bool] = False

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.score_sites

    @cached_property
    def digest(self) -> str:
        tokens = [self.image, self.text, self.risks]
        return canonical_digest(["savaa", self.method.config, tensor_digest(self.supported), tokens])[:32]

    def strengths(self, logits: Tensor, steps: Sequence[int]) -> Tensor:
        """Risks [n]."""
        if self.risks:
            return torch.tensor([self.risks[step % len(self.risks)] for step in steps])
        vge = visual_grounding_entropy(logits, self.supported.to(logits.device), self.method.alpha)
        return (vge / self.method.scale).clamp(0, 1)

    def edit_by(self, site: Site, x: Tensor, strengths: Tensor) -> Tensor:
        image, text = (torch.zeros(x.shape[-1], dtype=torch.bool) for _ in range(2))
        image[list(self.image)], text[list(self.text)] = True, True
        factors = 1 + (self.method.visual - 1) * strengths
        return amplified(x, image.to(x.device), text.to(x.device), factors.to(x), self.method.text)

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return x


@component("intervention", "savaa")
@dataclass(frozen=True)
class SAVAA(SteeringMethod):
    """Attention to the query's images is amplified at generated tokens by the risk of hallucination at the last step.

    Controls: the mean of the answer's risks at each step, and the risks in a random order.
    """

    visual: Positive = 1.1  # factor of the image's attention logits at the highest risk; 1 or less is off
    text: Positive = 1.7  # what the attention logits of the prompt's text are divided by, whatever the risk
    alpha: Fraction = 0.5  # weight of the entropy in the risk; the remainder weighs the missing image support
    scale: Positive = 0.5  # visual grounding entropy (0 to 1) at which the risk reaches 1
    first_layer: int = 0  # the lowest layer; negative: from the top
    last_layer: int = -1  # the highest layer
    control: Literal["none", "fixed", "permuted"] = "none"  # the mean risk of the answer, or its risks in random order
    steps: PositiveInt = 32  # tokens of the greedy answer from which the controls take their risks
    draw: Count = 0  # number of the random order of the control

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "llava": {"last_layer": 14},
        "qwen": {"visual": 1.3, "text": 1.3, "alpha": 0.6, "scale": 0.6, "first_layer": 4, "last_layer": 14},
        "internvl": {"visual": 1.3, "text": 1.6, "alpha": 0.8, "scale": 0.7, "first_layer": 4, "last_layer": 14},
    }

    @property
    def neutral(self) -> bool:
        return self.visual <= 1

    @property
    def config(self) -> dict[str, Any]:
        """The parameters. `steps` and `draw` are included only for the controls, which alone use them."""
        node: dict[str, Any] = describe(self)
        return node if self.control != "none" else {k: v for k, v in node.items() if k not in ("steps", "draw")}

    def controls(self) -> tuple[SteeringMethod, ...]:
        return () if self.control != "none" else (replace(self, control="fixed"), replace(self, control="permuted"))

    def model_problem(self, model: Model) -> str | None:
        return attention_problem(model, ("query_images",)) or super().model_problem(model)

    def check(self, model: HF) -> None:
        score_sites(model, self.first_layer, self.last_layer)

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        sites = score_sites(model, self.first_layer, self.last_layer)
        steered = []
        for prompt, tokens in zip(prompts, model.span_tokens(prompts, ["query_images", "images"]), strict=True):
            image, images = ([i for run in own for i in range(*run)] for own in tokens.values())
            if not image:
                steered.append(prompt)
                continue
            names = [part.name for part in prompt.parts() if part.image is not None and spans.is_query(part.name)]
            logits = model.image_logits(prompt, len(model.sites.layers) - 1, names)
            text = sorted(set(range(model.count_tokens(prompt))) - set(images))
            edit = Amplified(self, sites, grounding(torch.cat(logits)), tuple(image), tuple(text))
            steered.append(steer(prompt, replace(edit, risks=self._risks(prompt, edit, model))))
        return steered

    def _risks(self, prompt: Prompt, edit: Amplified, model: HF) -> tuple[float, ...]:
        """The constant risks that the control uses at the steps of a prompt; empty without a control."""
        if self.control == "none":
            return ()
        rows, risks = model.open([steer(prompt, edit)]), list[float]()
        while len(risks) < self.steps and (token := int(rows.logits.argmax())) not in model.stop_tokens:
            risks.append(float(edit.strengths(rows.logits, [len(risks)])[0]))
            rows.advance(torch.tensor([token], device=rows.logits.device))
        risks = risks or [0.0]
        if self.control == "fixed":
            return (sum(risks) / len(risks),)
        generator = torch.Generator().manual_seed(int(canonical_digest(["savaa", prompt.digest, self.draw])[:15], 16))
        return tuple(risks[i] for i in torch.randperm(len(risks), generator=generator))
