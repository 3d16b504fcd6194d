"""What arranges demonstrations and writes prompts: orderers, transforms and composers, each on plain data."""

from typing import ClassVar, Protocol, runtime_checkable

from icl.types import Context, Prompt


@runtime_checkable
class Orderer(Protocol):
    """A component of kind `orderer`: the same demonstrations in another order."""

    needs: ClassVar[frozenset[str]]

    def order(self, context: Context) -> Context: ...


@runtime_checkable
class Transform(Protocol):
    """A component of kind `transform`: a changed context. One that saw labels adds a mark to `provenance`."""

    needs: ClassVar[frozenset[str]]

    def transform(self, context: Context) -> Context: ...


@runtime_checkable
class Composer(Protocol):
    """A component of kind `composer`: a context as a prompt with named parts, ending where the model answers."""

    def compose(self, context: Context) -> Prompt: ...
