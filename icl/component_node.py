"""A component that a config names, parsed but not built: its class, its parameters and its place in the file.

`icl.registry.parse` makes one for each node. `Component.build` checks the parameters and makes the component of them.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from icl import ConfigError, config_key, did_you_mean, location, pydantic, refuse_untrusted

FLOAT32_MAX = 3.4028234e38
"""The largest float32. Scores use float32, so larger parameters and NaN are refused."""


class AllowInfinite:
    """Metadata of a number field that may be infinite: `limit: Annotated[float, AllowInfinite()]`."""


@dataclass(frozen=True)
class Component:
    """A parsed config node.

    Attributes:
        kind: The kind of component, such as 'strategy'.
        name: What the node calls the class: a registered name, a path or the name of a class.
        cls: The class.
        parameters: Parameter -> its value in the config, not checked yet.
        where: The place that error messages name, such as 'grid.yaml:9: grid.retriever[1]'.
        instance: The component, if Python code put it in the place of a node. It has no parameters then.
    """

    kind: str
    name: str
    cls: type[Any]
    parameters: Mapping[str, Any]
    where: str = ""
    instance: Any = None

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal for nodes that build equal components, and different for two classes of one name."""
        return self.cls, json.dumps(self.parameters, sort_keys=True, default=_text), id(self.instance)

    @property
    def parameter_names(self) -> list[str]:
        return [config_key(f) for f in fields(self.cls) if f.init]

    def with_parameter(self, path: Sequence[str], value: Any, where: str) -> "Component":
        """The component with another value of a parameter, or of a parameter of the component that it holds."""
        name, *inner = path
        if inner:
            node = self.parameters.get(name) or {}
            value = {**({"name": node} if isinstance(node, str) else node), inner[0]: value}
        return replace(self, parameters={**self.parameters, name: value}, where=where)

    def build(self) -> Any:
        """The component. Raises ConfigError if a parameter is unknown or out of range."""
        if self.instance is not None:
            return self.instance
        field_names = {config_key(f): f.name for f in fields(self.cls) if f.init}
        parameters = dict(self.parameters)
        if "preset" in parameters and "preset" not in field_names:
            parameters = _apply_preset(self.cls, self.name, parameters, self.where)
        what = f"{location(self.where)}{self.kind} '{self.name}'"
        for key in parameters:
            if key not in field_names:
                accepted = f"It takes {', '.join(field_names)}." if field_names else "It takes no parameters."
                hint = suggest("parameter", key, field_names, self.name)
                raise ConfigError(f"{what} has no parameter '{key}'{hint} {accepted}")
        return _validate(self.cls, {field_names[key]: value for key, value in parameters.items()}, what)


def _text(thing: Any) -> str:
    """Two classes that one function makes have the same name, so that the text has the id of the class."""
    return f"{thing!r} of {id(thing if isinstance(thing, type) else type(thing))}"


def _apply_preset(cls: type[Any], name: str, parameters: dict[str, Any], where: str) -> dict[str, Any]:
    """The preset's parameters, overridden by those next to the key `preset`."""
    presets, preset = getattr(cls, "presets", {}), parameters.pop("preset")
    if not isinstance(preset, str) or preset not in presets:
        available = f"Presets: {', '.join(presets)}." if presets else "It has none."
        hint = suggest("value", str(preset), presets, name)
        raise ConfigError(f"{location(where)}'{name}' has no preset '{preset}'{hint} {available}")
    return {**getattr(cls, "adapted_preset", lambda values, own: values)(presets[preset], parameters), **parameters}


def _validate(cls: type[Any], parameters: dict[str, Any], what: str) -> Any:
    """The component with parameters of the right types and finite numbers."""
    keys = {f.name: config_key(f) for f in fields(cls)}
    for field_name, value in parameters.items():
        if isinstance(value, bool) and not _accepts_bool(cls, field_name):
            raise ConfigError(
                f"{what}, {keys[field_name]}: {value} is not a number. (YAML reads yes, no, on and off as true "
                "and false.)"
            )
    _check_finite(cls, parameters, what)
    _check_trust(cls, parameters, what)
    try:
        built = _adapter(cls, fields(cls)).validate_python(parameters)  # type: ignore[arg-type]
    except ConfigError as error:  # the component itself refuses a combination of parameters
        raise ConfigError(f"{what}: {error}") from error
    except pydantic.ValidationError as error:
        raise ConfigError(f"{what}, {_validation_message(error.errors()[0], keys)}") from error
    _check_finite(cls, {f.name: getattr(built, f.name) for f in fields(cls) if f.init}, what)  # text that was a number
    return built


@lru_cache(maxsize=1024)
def _adapter(cls: type[Any], of: tuple["Field[Any]", ...]) -> Any:
    """The validator of a class. of: its fields, which autoreload replaces in a class that it edits."""
    return pydantic.TypeAdapter(cls)


def _check_trust(cls: type[Any], parameters: Mapping[str, Any], what: str) -> None:
    """Raises ConfigError if a run directory that is not trusted sets a parameter through which code can run.

    Such a parameter is named `trust...`, or has the metadata `needs_trust`, and is false or empty by default. Any other
    value is refused, even before it is a boolean: 1, "true". If the metadata is a function, it decides by the value.
    """
    for f in fields(cls):
        value, needs_trust = parameters.get(f.name), f.metadata.get("needs_trust", f.name.startswith("trust"))
        if value and (needs_trust(value) if callable(needs_trust) else needs_trust):
            refuse_untrusted(f"{config_key(f)}: {value!r}, which can run code, is not accepted", f"{what}: ")


def _validation_message(error: Any, keys: Mapping[str, str]) -> str:
    """A sentence about pydantic's first error. keys: field name -> key in a config."""
    parts = [str(part) for part in error["loc"]]
    if len(parts) > 1 and parts[-1] in ("str", "int", "float", "bool"):  # a member of a union, and no key
        parts.pop()
    key = ".".join(keys.get(part, part) for part in parts) or "parameters"
    if error["input"] is None:
        return f"{key}: no value. Write one after the colon, or remove the key."
    value = "" if error["type"] == "missing" else f", not {error['input']!r}"
    expected = re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))
    if isinstance(error["input"], str) and (new := new_name("value", error["input"], expected)):
        value += f": it is now '{new}'"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}{value}."


def _accepts_bool(cls: type[Any], field_name: str) -> bool:
    """False for a field that is a number or None: pydantic would read true as 1."""
    try:
        hint = get_type_hints(cls).get(field_name)
    except NameError:  # an annotation that only a type checker can resolve
        return True
    return not ({*get_args(hint)} if get_origin(hint) in (Union, UnionType) else {hint}) <= {int, float, type(None)}


def _check_finite(cls: type[Any], values: Mapping[str, Any], what: str) -> None:
    if problem := find_non_finite(cls, values):
        field_, value = problem
        raise ConfigError(f"{what}, {config_key(field_)}: {value} is not a finite number (in single precision).")


def find_non_finite(cls: type[Any], values: Mapping[str, Any]) -> "tuple[Field[Any], float] | None":
    """The first field with a value that is, or holds, a number that is not finite; values: by the names of fields.

    A number field that may be infinite says so: `limit: Annotated[float, AllowInfinite()]`.
    """
    for one in fields(cls):
        odd = _odd(values.get(one.name))
        if odd is not None and not any(isinstance(extra, AllowInfinite) for extra in _extras(cls, one.name)):
            return one, odd
    return None


def _odd(value: Any) -> float | None:
    """The first number in a value that is not finite. Nested components were checked when they were built."""
    if isinstance(value, float):
        return None if abs(value) <= FLOAT32_MAX else value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    elif is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "component"):
        value = tuple(getattr(value, one.name) for one in fields(value))
    if not isinstance(value, tuple | list | set | frozenset):
        return None
    return next((odd for item in value if (odd := _odd(item)) is not None), None)


def _extras(cls: type[Any], name: str) -> tuple[Any, ...]:
    """The metadata of a field's annotated type."""
    try:
        return tuple(getattr(get_type_hints(cls, include_extras=True).get(name), "__metadata__", ()))
    except NameError:  # an annotation of the class that only a type checker can read
        return ()


# Old names of components, parameters, keys and values, so that an error can name the new one.
#
# Nothing is loaded under an old name. A row's key is `kind:old`, where kind is `component`, `parameter`, `key` (of a
# config file), `value` (of a parameter, or a preset) or `analysis`. `parameter:knn.reach` limits a row to one
# component.


RENAMED: dict[str, str] = {
    "component:made_up": "random_colors",
    "component:misled": "misled_rate",
    "component:leaking": "with_leaks",
    "component:disrupted": "neighbor_swap",
    "component:spread": "diverse_subset",
    "component:one_word": "e5v",
    "component:sentence": "sentence_transformers",
    "component:listed": "option_list",
    "component:described": "descriptions",
    "component:grid": "frame_grid",
    "component:label_at": "label_position",
    "parameter:neighbor_swap.place": "position",
    "parameter:label_position.place": "position",
    "parameter:filtered.near": "max_similarity",
    "parameter:reranked.rerank": "rerankers",
    "component:unparsed": "unparsed_rate",
    "component:varied": "random_augmentation",
    "component:yes": "yes_ratio",
    "parameter:drawn_from": "concept_set",
    "parameter:pool_share": "pool_fraction",
    "parameter:operators.told": "name_operator",
    "parameter:interleaved_operators.told": "name_operator",
    "parameter:printed_text.told": "name_box",
    "value:seen": "image",
    "key:rerank": "rerankers",
    "key:candidates": "rerank_candidates",
    "key:compose": "composer",
    "key:score": "answer_mode",
    "key:trace": "top_logprobs",
    "key:late_contrast": "lazy_branches",
    "key:late": "lazy_branches",
    "key:launch": "launcher",
    "key:correct": "correction",
    "parameter:vllm.tensor_parallel": "tensor_parallel_size",
    "parameter:vllm.data_parallel": "data_parallel_size",
    "parameter:vllm.gpu_memory": "gpu_memory_utilization",
    "parameter:vllm.prefix_caching": "enable_prefix_caching",
    "parameter:fake-gold.right": "accuracy",
    "analysis:following": "label_following",
    "analysis:identifiable": "identifiability",
    "analysis:modality": "modality_sensitivity",
    "analysis:pool": "pool_coverage",
    "analysis:precision": "label_precision",
    "parameter:code.ask": "instruction",
    "parameter:code.tokens": "max_new_tokens",
    "parameter:dcd.ask": "instruction",
    "parameter:dcd.tokens": "max_new_tokens",
    "value:asked": "recognized",
    "value:surer": "dynamic",
    "parameter:m3id.first": "first_step",
    "parameter:m3id.unsure": "threshold",
    "parameter:moicl.sparse": "top_k",
    "parameter:more_demonstrations.times": "factor",
    "parameter:nbce.pool": "pooling",
    "parameter:nbce.stickiness": "eta",
    "value:surest": "min_entropy",
    "parameter:random_gate.share": "probability",
}
"""`kind:old` -> new. A rename that follows from `RENAMED_WORDS` needs no row."""

RENAMED_WORDS: dict[str, str] = {
    "picture": "image",
    "colour": "color",
    "coloured": "colored",
    "normalise": "normalize",
    "normalised": "normalized",
    "labelled": "labeled",
    "centred": "centered",
    "grey": "gray",
    "favoured": "favored",
    "neighbour": "neighbor",
    "recognise": "recognize",
    "recognised": "recognized",
    "summarisation": "summarization",
}
"""Words that changed inside every name: `no_picture` is `no_image`, `mean_colour` is `mean_color`."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(RENAMED_WORDS, key=len, reverse=True))})(?=s?(?![a-z]))")


def new_name(kind: str, old: str, names: Collection[str], component: str = "") -> str | None:
    """The new name of an old one, if `names` contains it.

    Args:
        kind: What the name is of: 'component', 'parameter', 'key', 'value' or 'analysis'.
        old: The name that was not recognized.
        names: The names that are valid in its place.
        component: The component that the parameter or value belongs to.
    """
    words = _WORD.sub(lambda match: RENAMED_WORDS[match[0]], old)
    for new in (RENAMED.get(f"{kind}:{component}.{old}"), RENAMED.get(f"{kind}:{old}"), words):
        if new is not None and new != old and new in names:
            return new
    return None


def suggest(kind: str, old: str, names: Collection[str], component: str = "") -> str:
    """The end of a sentence about an unknown name: its new name, or the nearest valid one.

    ": it is now 'image'." after a rename, ". Did you mean 'image'?" for a typing error, "." otherwise.
    """
    new = new_name(kind, old, names, component)
    return f": it is now '{new}'." if new else f".{did_you_mean(old, names)}"
