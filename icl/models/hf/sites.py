"""Which module of a model to hook for each site, that is, for each place where hidden states are read or edited.

An intervention names sites (`icl.models.interventions.Site`: a kind and a layer). `DecoderSites` finds the PyTorch
module that has these states as its input or output (`Hookable`), and `icl.models.hf.row_edits` attaches the hooks.
Scores are neither input nor output of a module: for `scores` the attention block is found, and `attention_calls.Route`
intercepts its calls.

One layer:

        x = input of the layer
        |----> attention block --> (norm) --> a       site `attention` is a
        +  <------------------------------- a         site `middle` is x + a
        |----> MLP block --------> (norm) --> m       site `mlp` is m, `mlp_input` is what the block reads
        +  <------------------------------- m         site `residual` is x + a + m, the output of the layer
        |
    `heads` is the input of the attention block's output projection, cut into heads. `embedding` is the output of the
    input embeddings. `input` is what layer 0 reads, which may be something else: features in the place of image
    tokens, or scaled embeddings (granite). An `onward` site covers its own layer and all later ones.

How they are found, without a list of architectures:

    1  layers    The outermost `ModuleList` whose length is the config's number of layers.
    2  blocks    Children of a layer with a common name (below): attention, MLP, and attention's output projection.
    3  a and m   By measurement in a probe pass (`_parts_of`). Blocks may be followed by norms, so a and m are the two
                 outputs that sum to the layer's output minus its input. No such pair: no such sites.
    4  middle    In the same pass: it exists if the MLP reads x + a. In cohere2 attention and MLP both read x, so
                 nothing in the model is x + a.
    5  scores    In a second pass: they exist if softmax(scores) times the values, recomputed, equals the attention's
                 own output.

A probe pass is a forward pass on a few tokens of text; hooks record the inputs and outputs of each layer and its
children. If the pass fails (a model that needs an image), the decoder keeps only `embedding` and `heads`.

The vision tower has two sites: `vision` is the output of a layer and `vision_mlp` is m. Its layers are the longest list
of modules of one class that all run when an image is read, and whose inputs and outputs all have one shape, with a
state for each token. A tower of convolutions has none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from icl import TOWER_KINDS, ModelError, Site
from icl.models.hf.attention_calls import AttentionCall, Route, own_implementation, recomputed

ATTENTION_NAMES = ("self_attn", "cross_attn", "attention", "attn")
MIXER_NAMES = (*ATTENTION_NAMES, "linear_attn", "conv")
MLP_NAMES = ("mlp", "feed_forward", "block_sparse_moe")
PROJECTION_NAMES = ("o_proj", "out_proj", "dense")
"""Names of attention blocks, of all blocks that mix tokens, of MLPs, and of the output projection of attention."""

FAILURES = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError)
"""What a model may raise when it gets text without an image."""

TOLERANCE = 1e-2
"""Largest difference of two states that count as equal, as a share of the second's largest number. Half precision needs
that much."""

States = dict[nn.Module, tuple[Tensor | None, Tensor | None]]
"""Module -> its input and output in a probe pass."""


@dataclass(frozen=True, eq=False)
class Hookable:
    """The module to hook for a site. The state is its output, unless an attribute says otherwise.

    For the site `scores` it is the attention block, whose calls are routed (`attention_calls.Route`).

    Attributes:
        module: The module.
        reads_input: Whether the state is the module's input (sites `heads`, `input` and `mlp_input`).
        plus_input_of: Add the input of this layer to the output to get the state (site `middle`).
        heads: Number of heads into which the last dimension is divided. 0: it is not divided.
    """

    module: nn.Module
    reads_input: bool = False
    plus_input_of: nn.Module | None = None
    heads: int = 0


@dataclass(frozen=True)
class LayerParts:
    """What the probe pass showed of a layer, in the letters of the drawing.

    Attributes:
        attention: The module that gives a. None: none was recognized.
        mlp: The module that gives m. None: none was recognized.
        has_middle: Whether the MLP, or a norm before it, reads x + a.
        norm: The module whose output the attention block reads. None: none was recognized.
    """

    attention: nn.Module | None = None
    mlp: nn.Module | None = None
    has_middle: bool = False
    norm: nn.Module | None = None


class DecoderSites:
    """The sites of a language model and of its vision tower.

    Attributes:
        layers: The decoder's layers.
        probe_error: Why the probe pass failed, for messages. '' if it did not, or has not run.
        tower_error: The same for the pass of the vision tower.
    """

    def __init__(
        self, model: Any, run_probe_pass: Callable[[], None], read_image: Callable[[], object] | None = None
    ) -> None:
        """Finds the layers. Raises ModelError if there are none.

        Args:
            model: A model of transformers.
            run_probe_pass: Calls the model on a few tokens: the probe pass.
            read_image: Calls the vision tower on a small image: its probe pass. None if there is no tower to call.
        """
        self.model, self.run_probe_pass, self.name = model, run_probe_pass, type(model).__name__
        self.read_image = read_image
        self.config = model.config.get_text_config(decoder=True)
        self.probe_error = self.tower_error = ""
        count = self.config.num_hidden_layers
        decoder = model.get_decoder()
        lists = [(path, one) for path, one in decoder.named_modules() if isinstance(one, nn.ModuleList)]
        fitting = [(path.count("."), one) for path, one in lists if len(one) == count]
        if not fitting:
            raise ModelError(f"{self.name}: no list of {count} layers was found, so interventions have no sites.")
        self.layers: list[nn.Module] = list(min(fitting, key=lambda item: item[0])[1])

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.config.hidden_size)

    def layers_of(self, kind: str) -> list[nn.Module]:
        """The layers that sites of a kind are in: the vision tower's or the decoder's. [] if no tower has layers."""
        return self.tower if kind in TOWER_KINDS else self.layers

    def resolve(self, site: Site) -> Site:
        """The site with a layer number from 0.

        Raises ModelError, which names the nearest layer that has this kind, if the model lacks the site.
        """
        layers = self.layers_of(site.kind)
        if not layers:
            missing = f"its vision tower has no layers with a state for each token{self.tower_error}"
            missing = "it reads text only, or its image cache is off" if self.read_image is None else missing
            raise ModelError(f"{self.name} has no {site}: {missing}. Use a site of the decoder, such as input.")
        layer = site.layer + len(layers) if site.layer < 0 else site.layer
        if not 0 <= layer < len(layers):
            raise ModelError(f"{self.name} has no {site}: its {len(layers)} layers are 0 to {len(layers) - 1}.")
        site = Site(site.kind, layer)
        if self._hookable(site) is None:
            others = [i for i in range(len(layers)) if self._hookable(Site(site.kind, i)) is not None]
            nearest = min(others, key=lambda i: (abs(i - layer), i), default=None)
            instead = (
                f"no layer has {site.kind}" if nearest is None else f"the nearest layer with {site.kind} is {nearest}"
            )
            blocks = ", ".join(name for name, _ in layers[layer].named_children())
            raise ModelError(
                f"{self.name} has no {site}: that layer consists of {blocks}{self._other_attention(site)}, and "
                f"{instead}{self.probe_error}."
            )
        return site

    def resolve_all(self, site: Site) -> tuple[Site, ...]:
        """The resolved site, and all later ones of its kind if it is `onward`. Raises ModelError as `resolve`.

        If the first layer of an `onward` site lacks the kind, the site begins at the next layer that has it.
        """
        if not site.onward:
            return (self.resolve(site),)
        layer = site.layer + len(self.layers_of(site.kind)) if site.layer < 0 else site.layer
        later = tuple(one for one in self.all(site.kind) if one.layer >= layer >= 0)
        return later or (self.resolve(Site(site.kind, site.layer)),)

    def hookable(self, site: Site) -> Hookable:
        """The module of a resolved site."""
        module = self._hookable(site)
        assert module is not None
        return module

    def all(self, kind: str) -> tuple[Site, ...]:
        """All sites of a kind, from the lowest layer."""
        sites = (Site(kind, layer) for layer in range(len(self.layers_of(kind))))  # type: ignore[arg-type]
        return tuple(site for site in sites if self._hookable(site) is not None)

    @cached_property
    def final_norm(self) -> nn.Module:
        """The module between the last layer and the output layer. Raises ModelError if a probe pass shows none."""
        others: list[nn.Module] = [
            one for one in self.model.get_decoder().children() if not isinstance(one, nn.ModuleList)
        ]
        states = self._states([*others, self.layers[-1]], self.run_probe_pass) or {}
        last = states.get(self.layers[-1], (None, None))[1]
        for one in others:
            before, after = states.get(one, (None, None))
            if after is not None and before is not None and last is not None and torch.equal(before, last):
                return one
        raise ModelError(f"{self.name}: no norm after the last layer was found{self.probe_error}.")

    def num_heads(self, layer: int) -> int:
        """Number of attention heads of a layer."""
        block = _child(self.layers[layer], ATTENTION_NAMES)
        own = next((getattr(block, name, None) for name in ("num_heads", "num_attention_heads")), None)
        return int(own or self.config.num_attention_heads)

    def projection(self, layer: int) -> nn.Module | None:
        """The output projection of a layer's attention, or None."""
        block = _child(self.layers[layer], ATTENTION_NAMES)
        return None if block is None else _child(block, PROJECTION_NAMES)

    def attention_norm(self, layer: int) -> nn.Module | None:
        """The module, usually a norm, whose output a layer's attention block reads, or None."""
        parts = self._parts[layer]
        return None if parts is None else parts.norm

    def _other_attention(self, site: Site) -> str:
        """Why an attention block has no scores, for messages."""
        block = _child(self.layers[site.layer], ATTENTION_NAMES)
        if site.kind != "scores" or block is None or self.probe_error:
            return ""
        name = getattr(getattr(block, "config", None), "_attn_implementation", None)
        kind = f"{type(block).__name__} with {name}"
        return f" (its attention, {kind}, is no softmax of scores in transformers' registry)"

    def _hookable(self, site: Site) -> Hookable | None:
        if site not in self._hookables:
            self._hookables[site] = self._find(site)
        return self._hookables[site]

    @cached_property
    def _hookables(self) -> dict[Site, Hookable | None]:
        return {Site("embedding", 0): Hookable(self.model.get_input_embeddings())}

    def _find(self, site: Site) -> Hookable | None:
        layer = self.layers_of(site.kind)[site.layer]
        if site.kind == "scores":
            block = _child(layer, ATTENTION_NAMES)
            return Hookable(block) if block is not None and self._has_scores[site.layer] else None
        if site.kind == "heads":
            projection = self.projection(site.layer)
            if projection is None:
                return None
            return Hookable(projection, reads_input=True, heads=self.num_heads(site.layer))
        is_tower = site.kind in TOWER_KINDS
        parts = self._tower[layer] if is_tower else self._parts[site.layer]
        if parts is None:
            return None
        modules: dict[str, nn.Module | None] = {"residual": layer, "attention": parts.attention, "mlp": parts.mlp}
        modules |= {"vision": layer, "vision_mlp": parts.mlp} if is_tower else {}
        modules["middle"] = parts.attention if parts.has_middle else None
        modules["input"] = layer if site.layer == 0 else None
        modules["mlp_input"] = None if parts.mlp is None else _child(layer, MLP_NAMES)
        module = modules.get(site.kind)  # the one site `embedding` is in `_hookables` already
        if module is None:
            return None
        return Hookable(
            module,
            reads_input=site.kind in ("input", "mlp_input"),
            plus_input_of=layer if site.kind == "middle" else None,
        )

    @cached_property
    def _parts(self) -> list[LayerParts | None]:
        """The parts of each layer, from a probe pass. None: it failed, or the output is not [batch, tokens, width]."""
        states = self._states(self.layers, self.run_probe_pass)
        outputs = [None if states is None else states.get(layer, (None, None))[1] for layer in self.layers]
        fits = [one is not None and one.ndim == 3 and one.shape[-1] == self.width for one in outputs]
        return [_parts_of(layer, states or {}) if fit else None for layer, fit in zip(self.layers, fits, strict=True)]

    @property
    def tower(self) -> list[nn.Module]:
        """The vision tower's layers. [] if it has none that are layers of tokens."""
        return list(self._tower)

    @cached_property
    def _tower(self) -> dict[nn.Module, LayerParts]:
        """The layers of the vision tower with their parts, from a pass of it."""
        if self.read_image is None:
            return {}
        lists = [list(one) for one in self.model.modules() if isinstance(one, nn.ModuleList | nn.Sequential)]
        same_class = [one for one in lists if len({type(layer) for layer in one}) == 1]
        states = self._states([layer for one in same_class for layer in one], self.read_image) or {}
        stack = max((one for one in same_class if _is_stack(one, states)), key=len, default=[])
        return {layer: _parts_of(layer, states) for layer in stack}

    def _states(self, layers: Sequence[nn.Module], run: Callable[[], object]) -> States | None:
        """Input and output of layers and their children in a probe pass. None if it failed."""
        states: States = {}

        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            states[module] = _state(args or tuple(kwargs.values())), _state(output)

        modules = dict.fromkeys(one for layer in layers for one in (layer, *layer.children()))
        hooks = [one.register_forward_hook(record, with_kwargs=True) for one in modules]
        return states if self._probe(hooks, run) else None

    @cached_property
    def _has_scores(self) -> list[bool]:
        """Whether each layer's attention is softmax(scores) v and goes through `AttentionInterface`: a probe pass."""
        verdicts = [False] * len(self.layers)

        def compare(number: int, call: AttentionCall, output: Tensor) -> Tensor:
            own = recomputed(call)
            verdicts[number] = own.shape == output.shape and _close(own, output.float())
            return output

        blocks = [_child(layer, ATTENTION_NAMES) for layer in self.layers]
        routes = [
            Route(block, partial(compare, number))
            for number, block in enumerate(blocks)
            if block is not None and own_implementation(block) is not None
        ]
        if routes:
            self._probe(routes, self.run_probe_pass)
        return verdicts

    def _probe(self, hooks: Sequence[Any], run: Callable[[], object]) -> bool:
        """Run a probe pass, then remove the hooks. False, with `probe_error` or `tower_error`, if it failed."""
        try:
            run()
        except FAILURES as error:
            reason = next(iter(str(error).splitlines()), "")
            if run is self.read_image:
                self.tower_error = f" (a small image cannot be read: {reason})"
            else:
                self.probe_error = f" (a text alone cannot be read: {reason})"
            return False
        finally:
            for hook in hooks:
                hook.remove()
        return True


def _is_stack(modules: Sequence[nn.Module], states: States) -> bool:
    """Whether all modules read and give states of an image's tokens, of one shape."""
    own = [state for one in modules for state in states.get(one, (None, None))]
    shapes = {None if state is None else state.shape for state in own}
    return len(shapes) == 1 and own[0] is not None and own[0].ndim in (2, 3) and own[0].is_floating_point()


def _parts_of(layer: nn.Module, states: States) -> LayerParts:
    before, after = states.get(layer, (None, None))
    if before is None or after is None or before.shape != after.shape:
        return LayerParts()
    each = {one: states.get(one, (None, None))[1] for one in layer.children()}
    outputs = {one: state for one, state in each.items() if state is not None and state.shape == after.shape}
    attention, mlp = _child(layer, MIXER_NAMES), _child(layer, MLP_NAMES)
    for gives_a, gives_m in product(_candidates(attention, outputs), _candidates(mlp, outputs)):
        added = outputs[gives_a].float() + outputs[gives_m].float()
        if gives_a is gives_m or not _close(added, (after - before).float()):
            continue
        middle = (before + outputs[gives_a]).float()
        inputs = [states[one][0] for one in outputs if one is not gives_a]
        reads_sum = any(one is not None and _close(one.float(), middle) for one in inputs)
        read = None if attention is None else states.get(attention, (None, None))[0]
        norms = (one for one in outputs if read is not None and one is not attention and outputs[one].equal(read))
        return LayerParts(gives_a, gives_m, reads_sum, next(norms, None))
    return LayerParts()


def _candidates(block: nn.Module | None, outputs: Mapping[nn.Module, Tensor]) -> list[nn.Module]:
    """The children that give a state: the block, then others, such as its norm. [] without a block."""
    return [] if block is None else sorted(outputs, key=lambda one: one is not block)


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _state(value: Any) -> Tensor | None:
    """The first tensor of arguments or of an output."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((one for one in value if isinstance(one, Tensor)), None)
    return None


def _close(value: Any, other: Tensor) -> bool:
    return bool((value - other).abs().max() <= TOLERANCE * other.abs().max().clamp(min=1e-6))
