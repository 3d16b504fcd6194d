"""No parameter of any component is infinite or NaN, unless its field allows it."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from icl.component_node import AllowInfinite, find_non_finite
from icl.errors import ConfigError
from icl.parameter_docs import parameter_docs
from icl.registry import PACKAGES, build, component, entries, resolve

if TYPE_CHECKING:
    from decimal import Decimal


def _numbers(hint: Any, value: float) -> Any:
    """The number in the shape of a type, or None where the type has no place for one."""
    if hint is float:
        return value
    inner = [_numbers(one, value) for one in get_args(hint) if one is not Ellipsis]
    number = next((one for one in inner if one is not None), None)
    if number is None:
        return None
    if get_origin(hint) in (tuple, list):
        return [number] if Ellipsis in get_args(hint) or get_origin(hint) is list else inner
    return number


def _places() -> list[tuple[str, str, str, Any]]:
    """(kind, name, key, type) of each parameter that holds numbers."""
    places = []
    for kind in PACKAGES:
        for name in entries(kind):
            cls = resolve(kind, name)
            hints = get_type_hints(cls)
            for one in fields(cls):
                if one.init and _numbers(hints[one.name], 0.0) is not None:
                    places.append((kind, name, str(one.metadata.get("key", one.name)), hints[one.name]))
    return places


PLACES = _places()


def test_many_components_have_such_parameters() -> None:
    assert len(PLACES) > 60
    assert {("strategy", "contrast", "weights"), ("strategy", "moicl", "weights")} <= {one[:3] for one in PLACES}


@pytest.mark.parametrize(("kind", "name", "key", "hint"), PLACES, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_number_that_is_not_finite_is_refused_by_its_key(
    kind: str, name: str, key: str, hint: Any, value: float
) -> None:
    needed = {one.key: one.default for one in parameter_docs(resolve(kind, name)) if one.required}
    with pytest.raises(ConfigError, match=rf", {key}\b"):
        build(kind, {"name": name, **needed, key: _numbers(hint, value)})


def test_yaml_and_text_are_no_way_around(tmp_path: Any) -> None:
    path = tmp_path / "x.yaml"
    for value in (".inf", "'inf'", "1e999", "1e39"):
        path.write_text(
            "task: {name: binding, queries: 3}\nmodel: {name: hf, path: tiny}\n"
            f"decoding: {{name: contrast, weights: [{value}, -1]}}\n"
        )
        with pytest.raises(ConfigError, match=r"strategy 'contrast', weights: (inf|1e\+39) is not a finite number"):
            expand(load_config(path))


@component("metric", "open_ended")
@dataclass(frozen=True)
class _OpenEnded:
    limit: Annotated[float, AllowInfinite()] = 1.0


def test_a_field_may_say_that_infinity_means_something(monkeypatch: pytest.MonkeyPatch) -> None:
    from icl import registry

    real, target = registry.entries, registry.ComponentEntry("metric", "open_ended", f"{__name__}:_OpenEnded", "")
    monkeypatch.setattr(registry, "entries", lambda kind: {**real(kind), "open_ended": target})
    monkeypatch.setattr(registry, "load_class", lambda *_: _OpenEnded)
    assert build("metric", {"name": "open_ended", "limit": math.inf}).limit == math.inf


@dataclass(frozen=True)
class _Window:
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class _OfOnesOwn:
    windows: tuple[_Window, ...] = ()
    inner: Any = None
    kind: Any = _Window


def test_a_plain_class_within_is_looked_into_and_a_component_answers_for_itself() -> None:
    assert find_non_finite(_OfOnesOwn, {"windows": (_Window(), _Window(0, 2)), "inner": _OpenEnded(math.inf)}) is None
    problem = find_non_finite(_OfOnesOwn, {"kind": _Window, "windows": (_Window(), _Window(0, math.inf))})
    assert problem is not None
    assert (problem[0].name, problem[1]) == ("windows", math.inf)


@dataclass(frozen=True)
class _OnlyCheckersCanRead:
    share: "Decimal | float" = 0.0


def test_where_a_type_cannot_be_read_no_number_may_be_infinite() -> None:
    problem = find_non_finite(_OnlyCheckersCanRead, {"share": math.inf})
    assert problem is not None
    assert problem[0].name == "share"
