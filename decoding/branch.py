"""A branch as a config says it: what is changed about the prompt. `contrast` is made of these.

no_image                                    {change: noise, step: 900, images: all}
{change: instruction, text: Guess wildly.}    {change: region, box: [0, 0, .5, 1]}

A change is also any edit of images, by its name (`icl ls edit`), its mapping or the path of one's own:

rotate    {change: {name: blur, radius: 4}, images: all}    {change: {name: 'mine.py:Stripes', width: 3}}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import Ge, Le

from decoding import prompt_edits as changes
from icl import edits
from icl.constraints import Fraction, PatchesPerSide
from icl.errors import ConfigError, did_you_mean
from icl.registry import entries
from icl.types import Prompt, Where

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box that is all of an image."""


@dataclass(frozen=True)
class BranchChange:
    """What a name does to a prompt. reads: the parameters of a branch that it looks at."""

    made: Callable[[Prompt, "Branch"], Prompt]
    reads: tuple[str, ...] = ()


def _edited(edit: Callable[["Branch"], edits.Edit], *reads: str) -> BranchChange:
    """An edit of the images that the branch names."""
    return BranchChange(lambda prompt, branch: prompt.edit(edit(branch), branch.images), ("images", *reads))


CHANGES: Mapping[str, BranchChange] = {
    "none": BranchChange(lambda prompt, branch: prompt),
    "noise": _edited(lambda branch: edits.DiffusionNoise(branch.step), "step"),
    "blank": _edited(lambda branch: edits.Blank()),
    "mean_color": _edited(lambda branch: edits.MeanColor()),
    "shuffled_patches": _edited(lambda branch: edits.ShuffledPatches(branch.grid), "grid"),
    "crop": _edited(lambda branch: edits.Crop(*branch.box), "box"),
    "region": _edited(lambda branch: edits.RegionMask(*branch.box), "box"),
    "random_augmentation": _edited(lambda branch: edits.RandomAugmentation()),
    "random_colors": _edited(lambda branch: edits.RandomColors()),
    "no_image": BranchChange(lambda prompt, branch: changes.remove_query_image(prompt)),
    "no_demonstrations": BranchChange(lambda prompt, branch: changes.remove_demonstrations(prompt)),
    "query_text_alone": BranchChange(lambda prompt, branch: changes.remove_part(prompt, "both")),
    "shuffled_answers": BranchChange(lambda prompt, branch: changes.replace_answers(prompt, "shuffled")),
    "wrong_answers": BranchChange(lambda prompt, branch: changes.replace_answers(prompt, "wrong")),
    "instruction": BranchChange(lambda prompt, branch: changes.replace_instruction(prompt, branch.text), ("text",)),
    "before_question": BranchChange(
        lambda prompt, branch: changes.wrap_question(prompt, before=branch.text), ("text",)
    ),
    "after_question": BranchChange(lambda prompt, branch: changes.wrap_question(prompt, after=branch.text), ("text",)),
}
"""name -> what it does to a prompt. An image in place of another, and descriptions, need more than a name."""

EDIT = BranchChange(lambda prompt, branch: prompt.edit(branch.edit, branch.images), ("images",))
"""What an edit that has no place in the table does."""


class ChangeField:
    """Metadata of the field that holds a change: a name of the table, or an edit."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(_change)


@dataclass(frozen=True)
class Branch:
    """One changed prompt. change: a name of the table, or an edit. images: which are edited. step: of the noise.

    grid: of patches. box: shares of the sides. text: of an instruction, or beside the question. Raises ConfigError for
    one that its change does not read.
    """

    change: Annotated[str | edits.Edit, ChangeField()] = "none"
    images: Where = "query"
    step: Annotated[int, Ge(0), Le(edits.DIFFUSION_STEPS - 1)] = 500
    grid: PatchesPerSide = 4
    box: tuple[Fraction, Fraction, Fraction, Fraction] = WHOLE
    text: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.change, str) and self.change not in CHANGES:
            object.__setattr__(self, "change", _change(self.change))
        reads = self.does.reads
        name = self.change if isinstance(self.change, str) else type(self.change).__name__
        for f in fields(self):
            if f.name not in ("change", *reads) and getattr(self, f.name) != f.default:
                raise ConfigError(
                    f"the branch change '{name}' does not read {f.name}. It reads {', '.join(reads) or 'none'}."
                )
        if "text" in reads and not self.text:
            raise ConfigError(f"the branch change '{name}' needs a text: {{change: {name}, text: ...}}.")
        if "box" in reads:
            edits.Box(*self.box)  # a box turned around is an error before anything runs
        if self.change == "crop" and self.box == WHOLE:
            raise ConfigError(
                "the branch change 'crop' needs a box that leaves something out: {change: crop, box: [...]}."
            )

    @property
    def does(self) -> BranchChange:
        return CHANGES[self.change] if isinstance(self.change, str) else EDIT

    @property
    def edit(self) -> edits.Edit:
        """The change, where it is an edit."""
        assert isinstance(self.change, edits.Edit)
        return self.change

    def of(self, prompt: Prompt) -> Prompt:
        return self.does.made(prompt, self)


class BranchesField:
    """Metadata of a field that holds branches: names and mappings in a config."""

    def values(self) -> str:
        """What `change` may be: of the prompt, and of its images."""
        made = entries("edit")
        own = ", ".join(
            f"{name} (with {', '.join(does.reads)})" if does.reads else name
            for name, does in CHANGES.items()
            if name not in made
        )
        return f"change: {own}; or an edit of the images (icl ls edit): {', '.join(made)}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(_parsed)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        name = {"anyOf": [{"enum": list(dict.fromkeys((*CHANGES, *entries("edit"))))}, {"pattern": ":"}]}
        change = {"anyOf": [{"type": "string", **name}, {"type": "object", "required": ["name"]}]}
        branch = {"type": "object", "properties": {"change": change}, "description": "a change with its parameters"}
        return {"type": "array", "items": {"anyOf": [{"type": "string", **name}, branch]}}


def _change(node: Any) -> str | edits.Edit:
    """A change as a config writes it. Raises ConfigError with the nearest name."""
    if isinstance(node, str) and node in CHANGES:
        return node
    if isinstance(node, str) and ":" not in node and node not in entries("edit"):
        known = dict.fromkeys((*CHANGES, *entries("edit")))
        raise ConfigError(f"no branch change named '{node}'.{did_you_mean(node, known)} Changes: {', '.join(known)}.")
    return edits.build_edit(node, "branch")


def _parsed(node: Any) -> tuple[Branch, ...]:
    if not isinstance(node, list | tuple):
        raise ConfigError(f"branches is a list such as [no_image], not {node!r}.")
    return tuple(one if isinstance(one, Branch) else _one(one) for one in node)


def _one(node: Any) -> Branch:
    from pydantic import TypeAdapter, ValidationError

    if isinstance(node, str):
        return Branch(node)
    if not isinstance(node, Mapping):
        raise ConfigError(f"a branch is a change or a mapping with the key 'change', not {node!r}.")
    known = [f.name for f in fields(Branch)]
    for key in node:
        if key not in known:
            raise ConfigError(
                f"a branch has no parameter '{key}'.{did_you_mean(key, known)} It has {', '.join(known)}."
            )
    try:
        return TypeAdapter(Branch).validate_python(dict(node))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"branch, {place}: {first['msg'][0].lower()}{first['msg'][1:]}.") from error
