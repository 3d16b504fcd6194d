"""Copies a strategy's formula out of its modules: its methods, and the functions and constants that they name."""

import ast
import builtins
import inspect
import math
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from types import FunctionType, ModuleType
from typing import Any

from decoding.base import Strategy
from icl.errors import ConfigError

ROOTS = ("mask", "combine_stateful")
"""The methods that decode a step."""
OWN_PACKAGES = frozenset({"icl", "prompts", "retrievers", "decoding", "experiments"})
LIBRARIES = frozenset({"torch", "transformers"}) | sys.stdlib_module_names


class CannotCopyError(ConfigError):
    """The code of a strategy depends on something that cannot be copied. The message is the reason."""


@dataclass
class SourceCopy:
    """Code that is copied so far.

    Attributes:
        imports: Import statements.
        definitions: Name -> source of a constant, function or class, each behind the definitions it needs.
        objects: Name -> the object that it stands for.
    """

    imports: set[str] = field(default_factory=set)
    definitions: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)

    def add_strategy(self, strategy: Strategy, called: frozenset[str] = frozenset()) -> str:
        """Copies the class of a strategy and of those that it wraps. Returns an expression that makes the strategy.

        Args:
            strategy: The strategy with its parameters.
            called: Names of attributes that a wrapper reads.

        Raises:
            CannotCopyError: The code depends on something that stays here.
        """
        cls = type(strategy)
        members = {name: value for base in reversed(cls.__mro__[:-1]) for name, value in vars(base).items()}
        parameters = {f.name: getattr(strategy, f.name) for f in fields(cls)}  # type: ignore[arg-type]  # a dataclass
        code: dict[str, str] = {}
        constants: dict[str, str] = {}
        read: set[str] = set()
        attributes: set[str] = set()
        pending = [*ROOTS, *sorted(called & members.keys() - set(ROOTS) - parameters.keys())]
        while pending:
            name = pending.pop(0)
            if name in code or name in constants or name in read:
                continue
            if name in parameters:
                read.add(name)
                continue
            if name == "traits":
                raise CannotCopyError("its code reads the traits of a strategy, which only the engines here know")
            if name not in members:
                raise CannotCopyError(f"its code reads self.{name}, which is neither a parameter nor a method")
            if (function := _function(members[name])) is None:
                constants[name] = f"{name} = {_literal(members[name], f'{cls.__name__}.{name}')}"
                continue
            source, tree = _parse(function)
            code[name] = source
            self._add_names(function, tree)
            pending += sorted(_attributes(tree, of_self=True))
            attributes |= _attributes(tree, of_self=False)
        values = {name: parameters[name] for name in parameters if name in read}
        arguments = [
            f"{name}={self.add_strategy(value, frozenset(attributes))}"
            if isinstance(value, Strategy)
            else f"{name}={_literal(value, f'the parameter {name}')}"
            for name, value in values.items()
        ]
        head = [f"{name}: {type(value).__name__}" for name, value in values.items()]
        body = ["\n".join([*head, *constants.values()]), *code.values()]
        text = textwrap.indent("\n\n".join(part for part in body if part), "    ")
        self._define(cls.__name__, cls, f"@dataclass(frozen=True)\nclass {cls.__name__}:\n{text}")
        return f"{cls.__name__}({', '.join(arguments)})"

    def _add_names(self, function: FunctionType, tree: ast.AST) -> None:
        """Copies what a function names. Raises CannotCopyError."""
        if function.__code__.co_freevars:
            raise CannotCopyError(f"{function.__qualname__} uses super() or variables of an enclosing function")
        for node in ast.walk(tree):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            if isinstance(node, ast.Import | ast.ImportFrom):
                for name in modules:
                    _check_library(name, function.__qualname__)
        for name in _names(tree):
            if name in function.__globals__:
                self._add(name, function.__globals__[name], function)

    def _add(self, name: str, value: Any, user: FunctionType) -> None:
        if isinstance(value, ModuleType):
            _check_library(value.__name__, user.__qualname__)
            self.imports.add(f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}"))
            return
        if not isinstance(value, type) and not callable(value):
            self._define(name, value, f"{name} = {_literal(value, name)}")
            return
        module = str(getattr(value, "__module__", ""))
        if module.partition(".")[0] in LIBRARIES:
            original = getattr(value, "__qualname__", name)
            self.imports.add(f"from {module} import {original}" + ("" if original == name else f" as {name}"))
        elif module.partition(".")[0] not in OWN_PACKAGES and module != user.__module__:
            raise CannotCopyError(f"{user.__qualname__} uses {name} of the package {module.partition('.')[0]}")
        elif isinstance(value, FunctionType):
            self._copy(name, value, [value])
        elif value is Strategy:
            raise CannotCopyError(f"{user.__qualname__} inspects strategies, which only the engines here know")
        elif isinstance(value, type):
            for base in value.__bases__:
                if base.__module__ != "builtins":
                    self._add(base.__name__, base, user)
            self._copy(name, value, [m for m in vars(value).values() if isinstance(m, FunctionType)])
        else:
            raise CannotCopyError(f"{user.__qualname__} uses {name}, which is neither a function nor a constant")

    def _copy(self, name: str, value: Any, functions: list[FunctionType]) -> None:
        if value.__name__ != name:
            raise CannotCopyError(f"its code uses {value.__name__} under another name, {name}")
        if name in self.objects:
            self._define(name, value, "")
            return
        self.objects[name] = value
        for function in functions:
            self._add_names(function, _parse(function)[1])
        self.definitions[name] = _source(value)

    def _define(self, name: str, value: Any, source: str) -> None:
        """Raises CannotCopyError if the name already stands for something else."""
        if name in self.objects:
            if self.objects[name] is not value and self.objects[name] != value:
                raise CannotCopyError(f"two things in the file would have the name {name}. Rename the one in its code")
            if not isinstance(value, type) or not issubclass(value, Strategy):
                return
            if self.definitions[name] != source:
                raise CannotCopyError(f"it wraps {name} twice with different methods")
            return
        self.objects[name] = value
        self.definitions[name] = source


def _function(member: Any) -> FunctionType | None:
    """The function of a method, property or cached property."""
    for candidate in (member, *(getattr(member, name, None) for name in ("fget", "__func__", "func"))):
        if isinstance(candidate, FunctionType):
            return candidate
    return None


def _source(value: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(value)).rstrip()
    except (OSError, TypeError) as error:
        raise CannotCopyError(f"the source of {value.__qualname__} is not available") from error


def _parse(function: FunctionType) -> tuple[str, ast.AST]:
    source = _source(function)
    try:
        return source, ast.parse(source)
    except SyntaxError as error:
        raise CannotCopyError(f"{function.__qualname__} is a part of a line. Write it as a function") from error


def _evaluated(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                yield node
                yield from _evaluated(node)


def _names(tree: ast.AST) -> list[str]:
    """Names that the code reads, without builtins, in order."""
    nodes = (node for node in _evaluated(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return list(dict.fromkeys(node.id for node in nodes if not hasattr(builtins, node.id)))


def _attributes(tree: ast.AST, *, of_self: bool) -> set[str]:
    nodes = [node for node in _evaluated(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if (isinstance(node.value, ast.Name) and node.value.id == "self") == of_self}


def _check_library(module: str, user: str) -> None:
    if module.partition(".")[0] not in LIBRARIES:
        raise CannotCopyError(f"{user} imports {module or 'a module'} while it runs")


def _literal(value: Any, where: str) -> str:
    """Python text of a constant. Raises CannotCopyError."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if type(value) is tuple:
        return f"({''.join(f'{_literal(one, where)}, ' for one in value)})"
    raise CannotCopyError(f"{where} is a {type(value).__name__}, which has no short text")
