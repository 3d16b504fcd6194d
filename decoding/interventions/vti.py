"""VTI: states of the vision tower and of the decoder are turned towards stable images and true answers.

Liu et al., Reducing Hallucinations in Large Vision-Language Models via Latent Space Steering, ICLR 2025 (arXiv
2410.15778). Each source is a query with an image and an answer:

    image   D_i = mean over draws of h(image i with masked patches) - h(image i)    each layer and token of the tower
    text    D_i = h(its answer) - h(another source's answer)                        each layer, at the last token
    v       = mean over i of D_i + the first principal direction of D, of length 1
              (image: over all layers of a token; text: over all layers)
    x'      = |x| unit(unit(x) + .1 alpha unit(v))    x: output of the MLP of each layer
              (image: in the tower, at all tokens of all images; text: at all tokens of prompt and answer)

The control `shuffled` exchanges the two sides of a random half of the sources. Pairing the sides anew would not change
the mean of D.

Differs from the released code in the wrong answer (release: captions with added objects) and in the patches, which are
masked in the image, on a grid (release: 14 pixels of what the processor gives). The states are the outputs of layers,
in the decoder before the final norm (release: with the embeddings, and the last one after the final norm). The
release's reshape puts layers and tokens in the wrong order, so that one principal direction is of several tokens of a
layer: `grouping: released`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, DirectionEdit, FitData, FittedMethod, FittedTensors
from decoding.interventions import EVERYWHERE
from decoding.interventions.edits import principal_direction
from icl import (
    ConfigError,
    DataError,
    Fraction,
    ModelError,
    NonNegative,
    PatchesPerSide,
    PositiveInt,
    Site,
    StreamKey,
    Tensor,
    Where,
    component,
    spans,
    torch,
)
from icl.edits import MaskedPatches
from icl.metrics import is_accepted

STEP = 0.1
"""Factor of both strengths, as released."""

ALL_IMAGES, QUERY_IMAGE = Where("images"), Where(spans.image(spans.QUERY))


@component("intervention", "vti")
@dataclass(frozen=True)
class VTI(FittedMethod):
    """MLP outputs turned towards states of masked images (in the vision tower) and of right answers (in the decoder).

    Controls: random directions, and those of sources of which a half has its sides exchanged.
    """

    alpha_image: NonNegative = 0.9  # how far states of the vision tower are turned; 0 is off
    alpha_text: NonNegative = 0.9  # how far states of the decoder are turned; 0 is off
    tokens: Literal["each", "mean"] = "each"  # fit: a direction for each token of an image, or one for all
    grouping: Literal["layers", "released"] = "layers"  # fit: what shares a principal direction of the tower
    share: Fraction = 0.99  # fit: of the patches that are masked
    grid: PatchesPerSide = 24  # fit: patches along a side
    trials: PositiveInt = 50  # fit: masked images of each source

    available_controls: ClassVar[tuple[Control, ...]] = ("random", "shuffled")
    tensor: ClassVar[str] = "text"
    min_fit_shots: ClassVar[int] = 0

    @property
    def neutral(self) -> bool:
        return not self._strengths

    @property
    def acts_on_output(self) -> bool:
        return "image" not in self._strengths

    @property
    def _strengths(self) -> dict[str, float]:
        """Part -> strength, if it is not 0."""
        parts = {"image": self.alpha_image, "text": self.alpha_text}
        return {name: STEP * alpha * self.strength for name, alpha in parts.items() if alpha * self.strength}

    def intervention(self) -> DirectionEdit:
        return self.interventions()[0]

    def interventions(self) -> tuple[DirectionEdit, ...]:
        layers = self.file.parameters
        return tuple(
            direction_edit(name, self.controlled(name), layers.get(f"{name}_layers", ()), lam)
            for name, lam in self._strengths.items()
        )

    def offers(self, control: Control) -> bool:
        return control == "random" or all(f"{name}.{control}" in self.file.tensors for name in self._strengths)

    def fit(self, data: FitData) -> FittedTensors:
        if not self._strengths:
            raise ConfigError(
                "vti has nothing to fit: alpha_image and alpha_text (times strength) are 0. Set one of them."
            )
        tensors, parameters, edits = dict[str, Tensor](), dict[str, list[int]](), list[DirectionEdit]()
        exchange = StreamKey(data.seed, "vti").numpy("exchanged").permutation(len(data.sources)) % 2
        signs = torch.tensor(1 - 2 * exchange).float()
        for name, lam in self._strengths.items():
            sites = data.model.sites.all(MLPS[name]) or (data.model.sites.resolve(Site(MLPS[name], 0)),)
            layers = [site.layer for site in sites]
            differences = image_differences(data, self) if name == "image" else answer_differences(data)
            for suffix, sign in (("", torch.ones(len(signs))), (".shuffled", signs)):
                own = differences * sign.view(-1, *[1] * (differences.ndim - 1))
                tensors[name + suffix] = image_direction(own, self.grouping) if name == "image" else direction(own)
            parameters[f"{name}_layers"] = layers
            edits.append(direction_edit(name, tensors[name], layers, lam))
        report = {**data.reference_accuracies(), "steered": data.accuracies([edits])[0]}
        return FittedTensors(tensors, parameters, report)


MLPS: dict[str, Literal["vision_mlp", "mlp"]] = {"image": "vision_mlp", "text": "mlp"}
"""Part -> kind of its sites."""


def direction_edit(part: str, directions: Tensor, layers: list[int], lam: float) -> DirectionEdit:
    """The edit of a part, from directions of all layers [layers, ..., d]."""
    where = ALL_IMAGES if part == "image" else EVERYWHERE
    own = {Site(MLPS[part], layer): directions[layer].squeeze(0) for layer in layers}
    return DirectionEdit(own, lam, where, evenly=True)


def direction(differences: Tensor) -> Tensor:
    """Mean and first principal direction of [n, layers, d], added: [layers, d]."""
    return differences.mean(0) + principal_direction(differences)


def image_direction(differences: Tensor, grouping: str = "layers") -> Tensor:
    """Directions of tokens of the tower, from [n, layers, tokens, d]: [layers, tokens, d].

    grouping: whether the layers of a token share a principal direction, or, as released, entries that are neighbors.
    """
    n, layers, tokens, width = differences.shape
    if grouping == "released":
        own = differences.reshape(n, tokens, layers, width)
        return torch.stack([direction(one) for one in own.unbind(1)]).view(layers, tokens, width)
    return torch.stack([direction(one) for one in differences.unbind(2)], 1)


def answer_differences(data: FitData) -> Tensor:
    """States after the answer of each source minus those after another source's answer: [n, layers, d].

    Raises:
        DataError: All sources accept each other's answers.
    """
    wrong = []
    for i, one in enumerate(data.sources):
        others = (other.answers[0] for other in (*data.sources[i + 1 :], *data.sources[:i]))
        answer = next((text for text in others if not is_accepted(text, one.answers)), None)
        if answer is None:
            raise DataError(f"query '{one.id}': no other source has a wrong answer for it. Use sources that differ.")
        wrong.append(answer)
    sites = data.model.sites.all("residual")
    return data.answer_states(sites)[1] - data.answer_states(sites, wrong)[1]


def image_differences(data: FitData, method: VTI) -> Tensor:
    """Mean states of masked images minus those of the image, for each source: [n, layers, tokens, d].

    Raises:
        DataError: A source has no image, or the images have different numbers of tokens.
    """
    sites, differences = data.model.sites.all("vision"), list[Tensor]()
    for done, one in enumerate(data.sources):
        prompt = one.without_demonstrations
        edits = [MaskedPatches(method.grid, method.share, draw) for draw in range(method.trials)]
        prompts = [prompt, *(prompt.edit(edit, "query") for edit in edits)]
        try:
            clean, *masked = (
                torch.stack([own[site] for site in sites]) for own in data.model.observe(prompts, sites, QUERY_IMAGE)
            )
        except ModelError as error:
            raise DataError(f"query '{one.id}': {error}") from error
        differences.append(torch.stack(masked).mean(0) - clean)
        data.on_progress("masking images", done + 1, len(data.sources))
    if method.tokens == "mean":
        return torch.stack([own.mean(1, keepdim=True) for own in differences])
    if len(counts := {own.shape[1] for own in differences}) > 1:
        raise DataError(
            f"the images of the sources have {', '.join(map(str, sorted(counts)))} tokens in the vision tower. Set "
            "tokens: mean, or use images of equal size."
        )
    return torch.stack(differences)
