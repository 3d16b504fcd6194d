"""The base class of models: defaults, checks of names when a class is created, and failing batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from icl.errors import ConfigError, ModelError
from icl.models.base import LogitModel, Model, Request
from icl.models.fake import FakeCopy
from icl.registry import build, entries, resolve
from icl.testing.conformance import check_model
from icl.types import Generation, Part, Prompt, Turn


@dataclass(frozen=True)
class Minimal(Model):
    """Repeats the prompt's text and defines nothing optional. It refuses texts with 'bad' in them."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    generate_batch_size: ClassVar[int] = 4

    digest: str = "minimal"

    def count_tokens(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        texts = [request.prompt.turns[0].parts[0].text or "" for request in requests]
        if any("bad" in text for text in texts):
            raise ModelError("a bad prompt")
        return [Generation(text) for text in texts]


def _request(text: str) -> Request:
    return Request(Prompt((Turn("user", (Part(text),)),)))


def test_every_registered_model_has_the_base_class() -> None:
    assert all(issubclass(resolve("model", name), Model) for name in entries("model"))


def test_optional_members_have_defaults() -> None:
    model, prompt = Minimal(), _request("x").prompt
    model.load()
    model.expect_prompts(images=1, tokens=100, branches=1)
    model.unload()
    assert (model.needs, model.quantizations, model.abilities_when_served) == (frozenset(), (), frozenset())
    assert (model.supports_adapters, model.is_endpoint, model.plans_prompt_sizes) == (False, False, False)
    assert (model.max_tokens, model.max_images, model.token_budget, model.max_batch_tokens) == (None,) * 4
    assert (model.notes, model.plan_notes, model.strategies_hint, model.counters()) == ((), (), "", {})
    assert (model.render(prompt), model.prefix_blocks(prompt), model.strategy_refusal({"name": "vcd"})) == (None,) * 3
    assert model.counts_exactly


def test_a_request_that_fails_in_a_batch_fails_alone() -> None:
    answers: dict[int, Generation | str] = {}
    texts = ["a", "b", "bad", "c", "d"]
    Minimal().generate_each([_request(text) for text in texts], answers.__setitem__)
    assert [answers[i] if i == 2 else answers[i].text for i in range(5)] == ["a", "b", "a bad prompt", "c", "d"]


def test_a_batch_without_enough_memory_is_halved_and_one_request_without_it_fails_alone() -> None:
    class Small(Minimal):
        def generate(self, requests: Sequence[Request]) -> list[Generation]:
            texts = [request.prompt.turns[0].parts[0].text or "" for request in requests]
            if len("".join(texts)) > 3:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
            return [Generation(text) for text in texts]

    answers: dict[int, Generation | str] = {}
    Small().generate_each([_request(text) for text in ("a", "b", "long", "c", "d")], answers.__setitem__)
    problem = "out of memory with this prompt alone (CUDA out of memory. Tried to allocate 2 GiB)."
    assert answers.pop(2) == problem
    assert [answers[i].text for i in (0, 1, 3, 4)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("base", [Model, LogitModel, FakeCopy])
def test_a_misspelled_member_is_an_error_when_the_class_is_created(base: type[Any]) -> None:
    with pytest.raises(TypeError, match=r"^Mistyped\.unlaod is not a member of .*Model\. Did you mean 'unload'\?"):
        type("Mistyped", (base,), {"unlaod": lambda self: None})


@pytest.mark.parametrize("name", ["shares_prefx", "stop_token", "options_ids"])
def test_a_misspelled_member_of_a_logit_model_is_an_error(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Mistyped\.{name} is not a member of LogitModel"):
        type("Mistyped", (LogitModel,), {name: None})


def test_parameters_and_private_helpers_may_have_similar_names() -> None:
    class Fine(FakeCopy):
        adaptors: str = ""  # a parameter
        _unlaod = None

        def my_own_helper(self) -> None: ...

    assert Fine.adaptors == ""


def test_a_field_with_the_name_of_a_member_needs_a_default() -> None:
    """`dataclass` would take the property of the base class for the default."""
    with pytest.raises(TypeError, match=r"^Bare\.max_tokens: Model has a member of this name, so the field needs"):

        @dataclass(frozen=True)
        class Bare(Model):
            max_tokens: int


def test_a_class_without_the_base_class_is_refused_with_a_remedy() -> None:
    @dataclass(frozen=True)
    class Structural:
        abilities: ClassVar[frozenset[str]] = frozenset({"generate"})

    with pytest.raises(
        ConfigError, match=r"'Structural' is not a model: it does not subclass icl\.models\.base\.Model\. "
    ):
        build("model", Structural())
    with pytest.raises(
        AssertionError, match=r"does not subclass icl\.models\.base\.Model\. Write `class Structural\(M"
    ):
        check_model(Structural())


def test_a_class_that_lacks_a_required_member_is_refused() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (Model,), {})()
