"""Misspelled members of a subclass, reported when the class is created.

A base class with optional members cannot tell a method that nobody overrides from an override with a typo in its name.
So it is an error if a public name of a subclass resembles a member of the base class but is not one.
"""

import inspect
from difflib import get_close_matches
from typing import Any

SIMILARITY = 0.8
"""`difflib` ratio from which a name counts as a misspelling."""


def check_member_names(cls: type[Any], base: type[Any]) -> None:
    """Check the names that a subclass defines; call it from `__init_subclass__`.

    Dataclass fields are parameters and may have any name, but one that is named like a member of the base class needs
    a default: `dataclass` would take the base's member for it.

    Args:
        cls: The subclass, before any decorator has run.
        base: The class that defines the members it may override.

    Raises:
        TypeError: A name is probably a misspelled member, or a field of a member's name has no default.
    """
    members = {name for name in dir(base) if not name.startswith("_")}
    fields = {name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)}
    if hidden := sorted(fields & members - vars(cls).keys()):
        raise TypeError(
            f"{cls.__name__}.{hidden[0]}: {base.__name__} has a member of this name, so the field needs a default "
            "(or make it a property)."
        )
    candidates = sorted(members - fields - vars(cls).keys())
    for name in vars(cls):
        if name.startswith("_") or name in members or name in fields:
            continue
        if matches := get_close_matches(name, candidates, 1, SIMILARITY):
            raise TypeError(
                f"{cls.__name__}.{name} is not a member of {base.__name__}. Did you mean '{matches[0]}'? Start the "
                "name of a helper of your own with an underscore."
            )
