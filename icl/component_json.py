"""The one way from a component to JSON, in two forms.

`describe` gives the identity of a component. Stored cells are found by its digest, so it is the same on every machine:
it names classes of the toolkit by their component names, and other classes by file and code digest. `to_config` gives a
config node that `icl.registry.build` accepts in another process of this machine.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from icl.errors import ConfigError, PlanError
from icl.loading import code_digest, import_path, is_builtin


def describe(thing: Any) -> Any:
    """The identity of a component: its name and all its parameters, as JSON. Equal components have equal nodes.

    A class from outside the toolkit adds the digest of its file, so edited code is another component. A dataclass of
    the toolkit that is not a component, such as a branch of `contrast`, is identified by its parameters alone.

    Raises:
        ConfigError: A parameter has no text that stays the same in the next process.
    """
    return _to_json(thing, _identity, _fields_of_identity)


def to_config(thing: Any) -> Any:
    """The config node from which another process of this machine builds an equal component.

    Raises:
        PlanError: A class or function is defined where another process cannot import it.
        ConfigError: A parameter has no text that stays the same in the next process.
    """
    return _to_json(thing, _loadable, _all_fields)


def config_nodes(data: Any, *, in_this_process: bool = False) -> Any:
    """A config from Python with each component and class in it replaced by its config node. Other values are kept.

    Args:
        data: The config, or a part of it.
        in_this_process: Whether no other process reads the nodes. A class that another process cannot import is then
            described, as in the identity of a cell.

    Raises:
        PlanError: A class is defined where another process cannot import it.
    """
    if isinstance(data, Mapping):
        return {key: config_nodes(value, in_this_process=in_this_process) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [config_nodes(value, in_this_process=in_this_process) for value in data]
    if not is_dataclass(data):
        return data
    try:
        return _class_node(data, _loadable) if isinstance(data, type) else to_config(data)
    except PlanError:
        if in_this_process:
            return describe(data)
        raise


def config_key(field: "Field[Any]") -> str:
    """The name of a dataclass field in a config (see `icl.registry.parameter`)."""
    return str(field.metadata.get("key", field.name))


def _to_json(thing: Any, reference: Callable[[Any], Any], values_of: Callable[[Any], Mapping[str, Any]]) -> Any:
    """The thing as JSON.

    Args:
        reference: Class or function from outside the toolkit -> the node that names it.
        values_of: Component -> its values by the name in a config.
    """

    def to_json(value: Any) -> Any:
        return _to_json(value, reference, values_of)

    if is_dataclass(thing) and not isinstance(thing, type):
        parameters = {name: to_json(value) for name, value in values_of(thing).items()}
        return _class_node(type(thing), reference) | parameters
    if isinstance(thing, tuple | list):
        return [to_json(item) for item in thing]
    if isinstance(thing, set | frozenset):
        return sorted((to_json(item) for item in thing), key=repr)
    if isinstance(thing, Mapping):
        return {str(key): to_json(value) for key, value in thing.items()}
    return reference(thing) if callable(thing) else _scalar(thing)


def _all_fields(thing: Any) -> Mapping[str, Any]:
    return {config_key(f): getattr(thing, f.name) for f in fields(thing) if f.init}


def _fields_of_identity(thing: Any) -> Mapping[str, Any]:
    """As `_all_fields`, with what stands for a value (`icl.registry.later_parameter`, `renamed_values`)."""
    values = dict(_all_fields(thing))
    for f in fields(thing):
        if former := f.metadata.get("former"):
            values[config_key(f)] = former(values[config_key(f)])
        if "identity" in f.metadata and values[config_key(f)] == f.metadata["before"]:
            del values[config_key(f)]
            values |= {config_key(f): value for value in f.metadata["identity"]}
    return values


def _scalar(thing: Any) -> Any:
    if isinstance(thing, float) and thing.is_integer():  # 1.0 from Python and 1 from a config are one value
        return int(thing)
    if repr(thing) == object.__repr__(thing):
        raise ConfigError(
            f"a parameter of type {type(thing).__name__} has no stable text representation. Make it a dataclass."
        )
    return thing


def _class_node(cls: type[Any], reference: Callable[[Any], Any]) -> dict[str, Any]:
    if not is_builtin(cls):
        node: dict[str, Any] = reference(cls)
        return node
    mark = getattr(cls, "component", None)
    return {"name": mark[1]} if mark else {}


def _identity(thing: Any) -> dict[str, str]:
    key = "name" if isinstance(thing, type) else "function"
    return {key: import_path(thing), "code": code_digest(thing)}


def _loadable(thing: Any) -> Any:
    """`module:name`, or `file:name` where the module was loaded from a file by its path."""
    module, name = thing.__module__, thing.__qualname__
    if module == "__main__" or "<" in name:
        raise PlanError(
            f"{name} is defined in a notebook, a script or a function, where another process cannot find it. "
            "Move it to a file and refer to it as path/to/file.py:Name."
        )
    if module.startswith("icl_user_"):
        module = str(Path(str(sys.modules[module].__file__)).resolve())
    path = f"{module}:{name}"
    return {"name": path} if isinstance(thing, type) else path
