"""Branches in a config: the change that makes a branch from the prompt. Strategy `contrast` has a list of them.

    no_image
    {change: noise, step: 900, images: all}
    {change: instruction, text: Guess wildly.}
    {change: region, box: [0, 0, .5, 1]}

A change can also be an edit of images: its name (`icl ls edit`), a mapping, or the path of a user's own class.

    rotate
    {change: {name: blur, radius: 4}, images: all}
    {change: {name: 'mine.py:Stripes', width: 3}}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import Ge, Le

from decoding import prompt_edits
from icl import ConfigError, Fraction, PatchesPerSide, Prompt, did_you_mean, edits, entries, pydantic, pydantic_core
from icl.types import Where

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box that covers the whole image."""


@dataclass(frozen=True)
class BranchChange:
    """A function that changes a prompt.

    Attributes:
        apply: Makes the changed prompt.
        reads: The parameters of a branch that `apply` uses.
    """

    apply: Callable[[Prompt, "Branch"], Prompt]
    reads: tuple[str, ...] = ()


def _image_edit(edit: Callable[["Branch"], edits.Edit], *reads: str) -> BranchChange:
    """A change that edits the images that the branch names."""
    return BranchChange(lambda prompt, branch: prompt.edit(edit(branch), branch.images), ("images", *reads))


CHANGES: Mapping[str, BranchChange] = {
    "none": BranchChange(lambda prompt, branch: prompt),
    "noise": _image_edit(lambda branch: edits.DiffusionNoise(branch.step), "step"),
    "blank": _image_edit(lambda branch: edits.Blank()),
    "mean_color": _image_edit(lambda branch: edits.MeanColor()),
    "shuffled_patches": _image_edit(lambda branch: edits.ShuffledPatches(branch.grid), "grid"),
    "crop": _image_edit(lambda branch: edits.Crop(*branch.box), "box"),
    "region": _image_edit(lambda branch: edits.RegionMask(*branch.box), "box"),
    "random_augmentation": _image_edit(lambda branch: edits.RandomAugmentation()),
    "random_colors": _image_edit(lambda branch: edits.RandomColors()),
    "no_image": BranchChange(lambda prompt, branch: prompt_edits.remove_query_image(prompt)),
    "no_demonstrations": BranchChange(lambda prompt, branch: prompt_edits.remove_demonstrations(prompt)),
    "query_text_alone": BranchChange(lambda prompt, branch: prompt_edits.remove_part(prompt, "both")),
    "shuffled_answers": BranchChange(lambda prompt, branch: prompt_edits.replace_answers(prompt, "shuffled")),
    "wrong_answers": BranchChange(lambda prompt, branch: prompt_edits.replace_answers(prompt, "wrong")),
    "instruction": BranchChange(
        lambda prompt, branch: prompt_edits.replace_instruction(prompt, branch.text), ("text",)
    ),
    "before_question": BranchChange(
        lambda prompt, branch: prompt_edits.wrap_question(prompt, before=branch.text), ("text",)
    ),
    "after_question": BranchChange(
        lambda prompt, branch: prompt_edits.wrap_question(prompt, after=branch.text), ("text",)
    ),
}
"""Name -> change of a prompt."""

EDIT = _image_edit(lambda branch: branch.edit)
"""The change of a branch that names an edit outside the table."""


class ChangeField:
    """Field metadata for a change: a name of CHANGES, or an edit."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(_parse_change)


@dataclass(frozen=True)
class Branch:
    """A branch of `contrast`: the prompt with one change.

    Attributes:
        change: A name of CHANGES, or an edit of images.
        images: Which images are edited.
        step: Step of the diffusion noise.
        grid: Patches per side.
        box: Left, top, right and bottom as fractions of the sides.
        text: The instruction, or the text before or after the question.

    Raises:
        ConfigError: A parameter is set that the change does not read, or one is missing.
    """

    change: Annotated[str | edits.Edit, ChangeField()] = "none"
    images: Where = "query"
    step: Annotated[int, Ge(0), Le(edits.DIFFUSION_STEPS - 1)] = 500
    grid: PatchesPerSide = 4
    box: tuple[Fraction, Fraction, Fraction, Fraction] = WHOLE
    text: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.change, str) and self.change not in CHANGES:
            object.__setattr__(self, "change", _parse_change(self.change))
        reads = self._definition.reads
        name = self.change if isinstance(self.change, str) else type(self.change).__name__
        for f in fields(self):
            if f.name not in ("change", *reads) and getattr(self, f.name) != f.default:
                raise ConfigError(
                    f"the branch change '{name}' has no parameter '{f.name}'. It has {', '.join(reads) or 'none'}."
                )
        if "text" in reads and not self.text:
            raise ConfigError(f"the branch change '{name}' needs the parameter text: {{change: {name}, text: ...}}.")
        if "box" in reads:
            edits.Box(*self.box)  # refuses an inverted box before anything runs
        if self.change == "crop" and self.box == WHOLE:
            raise ConfigError(
                "the branch change 'crop' needs a box smaller than the image: {change: crop, box: [...]}."
            )

    @property
    def _definition(self) -> BranchChange:
        return CHANGES[self.change] if isinstance(self.change, str) else EDIT

    @property
    def edit(self) -> edits.Edit:
        """The change, which must be an edit."""
        assert isinstance(self.change, edits.Edit)
        return self.change

    def apply(self, prompt: Prompt) -> Prompt:
        """The prompt of the branch."""
        return self._definition.apply(prompt, self)


class BranchesField:
    """Field metadata for branches: a list of names and mappings in a config."""

    def values(self) -> str:
        """The values of `change`, for `icl ls`."""
        image_edits = entries("edit")
        names = ", ".join(
            f"{name} (with {', '.join(change.reads)})" if change.reads else name
            for name, change in CHANGES.items()
            if name not in image_edits
        )
        return f"change: {names}; or an edit of the images (icl ls edit): {', '.join(image_edits)}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(_parse_branches)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        name = {"anyOf": [{"enum": list(dict.fromkeys((*CHANGES, *entries("edit"))))}, {"pattern": ":"}]}
        change = {
            "anyOf": [{"type": "string", **name}, {"type": "object", "required": ["name"]}],
            "description": "change of the prompt or edit of its images",
        }
        branch = {"type": "object", "properties": {"change": change}, "description": "a change with its parameters"}
        return {"type": "array", "items": {"anyOf": [{"type": "string", **name}, branch]}}


def _parse_change(node: Any) -> str | edits.Edit:
    """The change of a config node. Raises ConfigError with the nearest name."""
    if isinstance(node, str) and node in CHANGES:
        return node
    if isinstance(node, str) and ":" not in node and node not in entries("edit"):
        names = dict.fromkeys((*CHANGES, *entries("edit")))
        raise ConfigError(f"no branch change named '{node}'.{did_you_mean(node, names)} Changes: {', '.join(names)}.")
    return edits.build_edit(node, "branch")


def _parse_branches(node: Any) -> tuple[Branch, ...]:
    if not isinstance(node, list | tuple):
        raise ConfigError(f"branches must be a list such as [no_image], not {node!r}.")
    return tuple(one if isinstance(one, Branch) else _parse_branch(one) for one in node)


def _parse_branch(node: Any) -> Branch:
    if isinstance(node, str):
        return Branch(node)
    if not isinstance(node, Mapping):
        raise ConfigError(f"a branch must be a change or a mapping with the key 'change', not {node!r}.")
    names = [f.name for f in fields(Branch)]
    for key in node:
        if key not in names:
            raise ConfigError(
                f"a branch has no parameter '{key}'.{did_you_mean(key, names)} It has {', '.join(names)}."
            )
    try:
        return pydantic.TypeAdapter(Branch).validate_python(dict(node))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"branch, {place}: {first['msg'][0].lower()}{first['msg'][1:]}.") from error
