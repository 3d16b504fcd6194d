"""`custom_generate/generate.py` of transformers for a strategy: `model.generate(custom_generate=FOLDER)` runs it.

The file is the strategy's formula, copied from its source, and a runtime. It needs torch and transformers only. The
prompts of the other branches are not made in it: the caller passes the processor's outputs.
"""

import ast
import builtins
import inspect
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from decoding import Arm, Beam, Sampling, probe_branches, probe_prompt
from icl import ConfigError, Strategy, describe
from icl.edits import DiffusionNoise, diffusion_scales

RUNTIME = Path(__file__).with_name("custom_generate_runtime.py")
GENERATED = Path("custom_generate/generate.py")
README = "README.md"
IMPORTS = ("import inspect", "from dataclasses import dataclass", "from typing import Any", "import torch")
LAST_IMPORTS = ("from torch import Tensor", "from transformers import GenerationMixin, LogitsProcessor")
RUNTIME_START = "class OtherBranch:"
RUNTIME_NAMES = ("OtherBranch", "Branches", "generate", "STRATEGY", "BRANCHES")
"""Names that the code of a strategy must not define."""


def custom_generate_files(arm: Arm) -> dict[Path, str]:
    """Relative path -> text of the files of the folder.

    Args:
        arm: The strategy with its parameters. The sampler becomes arguments of `generate` in the README.

    Raises:
        ConfigError: The strategy cannot be exported; says why.
    """
    name = str(describe(arm.strategy)["name"])
    if reason := obstacle(arm):
        raise ConfigError(f"{name} cannot be exported for transformers: {reason}.")
    try:
        copy = SourceCopy(objects=dict.fromkeys(RUNTIME_NAMES))
        expression = copy.add_strategy(arm.strategy)
    except CannotCopyError as error:
        raise ConfigError(f"{name} cannot be exported for transformers: {error}.") from error
    return {GENERATED: _generate_py(arm, copy, expression), Path(README): _readme(arm, name)}


def obstacle(arm: Arm) -> str | None:
    """Why a processor of logits cannot do what the arm does, or None."""
    traits = arm.strategy.traits
    needs = traits.needs - {"generate", "logits"}
    reasons = {
        "it scores options and cannot generate text": traits.requires_options,
        "it contrasts early layers, and generate passes the logits of the last layer only": traits.reads_early_exits,
        f"it needs {', '.join(sorted(needs))} of the model, and generate passes logits only": bool(needs),
        "it reads the first token of each option": traits.sums_first_tokens,
        "its scores depend on the random stream of the query": traits.draws_random_numbers,
        "its scores depend on the steps before, and transformers has no place for them": traits.keeps_state,
        "the weights of its branches depend on the prompt, and generate takes none": traits.combines_notes,
        f"it chooses among {traits.num_samples} answers": traits.num_samples > 1,
        "it searches with beams, which reorder the rows of the prompt but not the rows of other branches": isinstance(
            arm.sampler, Beam
        ),
        "it acts in one part of a reasoning output, which generate does not follow": arm.acts_in != "both",
        "its logits_processors are transformers' own; remove them and pass them to generate": bool(
            arm.logits_processors
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def branch_count(strategy: Strategy) -> int | None:
    """Number of prompts that a strategy reads, or None if it depends on the demonstrations."""
    counts = {len(probe_branches(strategy, probe_prompt(shots))) for shots in (2, 3)}
    return counts.pop() if len(counts) == 1 else None


def noised_branches(strategy: Strategy) -> dict[int, int]:
    """Number of a branch -> diffusion step of the noise on the processed pixels of its images."""
    return {
        number: edit.step
        for number, branch in enumerate(probe_branches(strategy))
        for image in branch.images
        for edit in image.pixel_value_edits
        if isinstance(edit, DiffusionNoise)
    }


def sampler_arguments(arm: Arm) -> dict[str, Any]:
    """Arguments of `generate` that sample as the arm does."""
    sampler = arm.sampler
    if not isinstance(sampler, Sampling) or sampler.temperature == 0:
        return {"do_sample": False}
    cuts = {"top_k": sampler.top_k, "top_p": sampler.top_p, "min_p": sampler.min_p}
    return {"do_sample": True, "temperature": sampler.temperature, **cuts}


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


def _generate_py(arm: Arm, copy: SourceCopy, expression: str) -> str:
    cls = type(arm.strategy)
    module = sys.modules.get(cls.__module__)
    paper = inspect.getdoc(module) or inspect.getdoc(cls) or cls.__name__
    author = [] if _is_ours(arm) else ["# The class of the strategy is under the license of its author."]
    header = [
        "# SPDX-License-Identifier: Apache-2.0",
        *author,
        f"# Written by mm-icl (icl export custom_generate) for {json.dumps(arm.config)}",
        '"""' + paper.replace("\\", "\\\\").replace('"""', "'''") + '\n"""',
    ]
    imports = sorted(copy.imports | set(IMPORTS), key=lambda line: (line.startswith("from"), line))
    _, _, runtime = RUNTIME.read_text(encoding="utf-8").partition(RUNTIME_START)
    blocks = [
        "\n".join(header),
        "from __future__ import annotations",
        "\n".join([*imports, *LAST_IMPORTS]),
        *copy.definitions.values(),
        f"STRATEGY = {expression}\nBRANCHES = {branch_count(arm.strategy)}",
        RUNTIME_START + runtime.rstrip().replace("  # type: ignore[misc]", ""),
    ]
    return "\n\n\n".join(blocks) + "\n"


def _readme(arm: Arm, name: str) -> str:
    count = branch_count(arm.strategy)
    summary = (inspect.getdoc(type(arm.strategy)) or "").split("\n")[0]
    negative = "" if count == 1 else "\n    negative=negatives,"
    others = "several" if count is None else str(count - 1)
    license_line = "license: apache-2.0\n" if _is_ours(arm) else ""
    keywords = "".join(f"\n    {key}={value!r}," for key, value in sampler_arguments(arm).items())
    prompts = ""
    if count != 1:
        prompts = (
            f"`negatives` is a list of the processor's outputs for the other prompts ({others}), left-padded, "
            f"in the order of\n`{type(arm.strategy).__name__}.branches` in mm-icl. "
            f"The docstring of `{GENERATED}` names them.\n"
        )
    if count != 1 and "generate" in arm.strategy.traits.needs:
        prompts += "They contain a text that the model under test generates first.\n"
    for number, step in noised_branches(arm.strategy).items():
        scale, spread = diffusion_scales(step)
        prompts += (
            f"\nIn `negatives[{number - 1}]`, the processed pixels of the noised images are\n"
            f"`{scale:.6g} * pixels + {spread:.6g} * torch.randn_like(pixels)` (diffusion step {step}).\n"
        )
    return f"""---
library_name: transformers
{license_line}tags:
  - custom_generate
---

# {name}

{summary}

```python
model.generate(
    **inputs,{negative}
    custom_generate="FOLDER",
    trust_remote_code=True,{keywords}
)
```

{prompts}
Node: `{json.dumps(arm.config)}`

The strategy receives the logits after the processors of the model's generation config (such as `repetition_penalty`)
and before temperature and cuts. Beam search, several sequences per row and assisted decoding are errors.
"""


def _is_ours(arm: Arm) -> bool:
    return type(arm.strategy).__module__.partition(".")[0] in OWN_PACKAGES


ROOTS = ("mask", "combine_stateful")
"""The methods that decode a step."""
OWN_PACKAGES = frozenset({"icl", "prompts", "retrievers", "decoding", "experiments"})
LIBRARIES = frozenset({"torch", "transformers"}) | sys.stdlib_module_names


class CannotCopyError(ConfigError):
    """The code of a strategy depends on something that cannot be copied. The message is the reason."""


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
