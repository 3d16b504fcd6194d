"""Every optional member is read by the function of its name, is had by some model of ours, and can be misspelled."""

from dataclasses import dataclass
from inspect import isfunction
from types import SimpleNamespace

import pytest

from icl.models import optional
from icl.models.fake import FakeCopy
from icl.models.optional import NAMES, misspelled
from icl.registry import entries, resolve
from icl.testing.conformance import check_model

NOT_OURS = {"at_once", "batch_tokens"}  # for models of one's own
PROMPT = object()
HAD = {
    **dict.fromkeys(("adapters", "lends", "url"), True),
    **dict.fromkeys(("at_once", "batch_tokens", "token_budget"), 7),
    **dict.fromkeys(("generate_each", "expect", "refuses", "rendered", "unload"), lambda *told: PROMPT),
    "blocks": lambda prompt: [3, 4],
    "counters": lambda: {"forwards": 2},
    "counts_exactly": False,
    "lacks": "no strategies",
    "max_images": 3,
    "notes": ("slow",),
    "plan_notes": ("packed",),
    "quantizations": ("4bit",),
    "when_served": frozenset({"strategies"}),
}


def test_the_list_of_names_is_that_of_the_functions() -> None:
    own = {
        name for name, thing in vars(optional).items() if isfunction(thing) and thing.__module__ == optional.__name__
    }
    assert own - {"misspelled"} == set(NAMES) == set(HAD)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"unload", "blocks"}))
def test_a_member_is_read_by_the_function_of_its_name(name: str) -> None:
    read = getattr(optional, name)
    assert read(SimpleNamespace(**{name: HAD[name]})) != read(SimpleNamespace())


def test_what_is_unloaded_and_what_has_blocks() -> None:
    freed: list[str] = []
    optional.unload(SimpleNamespace(unload=lambda: freed.append("it")))
    optional.unload(SimpleNamespace())
    assert freed == ["it"]
    assert optional.blocks(SimpleNamespace(blocks=HAD["blocks"], block_size=16), PROMPT) == (16, [3, 4])
    assert optional.blocks(SimpleNamespace(), PROMPT) is None


def test_every_member_is_had_by_one_of_our_models() -> None:
    had = set().union(*(dir(resolve("model", name)) for name in entries("model")))
    had |= {one for name in entries("model") for one in resolve("model", name).__dataclass_fields__}
    assert set(NAMES) - NOT_OURS <= had
    assert not [name for name in entries("model") if misspelled(object.__new__(resolve("model", name)))]


@dataclass(frozen=True)
class Mistyped(FakeCopy):
    adaptor: str = ""  # a parameter, whatever it is called

    def unlaod(self) -> None:
        """Would never be called."""


def test_a_name_that_was_meant_to_be_one_is_told() -> None:
    assert misspelled(Mistyped()) == ("unlaod", "unload")
    with pytest.raises(AssertionError, match=r"Mistyped\.unlaod: nothing reads this name; 'unload' is read\."):
        check_model(Mistyped())
