"""What arranges demonstrations and writes prompts: orderers, transforms and composers, each on plain data."""

from typing import ClassVar, Protocol, runtime_checkable

from icl.types import Context, Prompt


@runtime_checkable
class Orderer(Protocol):
    """A component of kind `orderer`: the same demonstrations in another order.

    needs: 'labels' where it reads the demonstrations' answers; 'gold' where it is an oracle: the context's query is
    then the Example, and it leaves the mark 'saw the gold' in the provenance. Otherwise neither may matter. 'model'
    where it asks the model, 'pool' where it draws from the pool: then `fitted(pool, model)` gives what is called.
    """

    needs: ClassVar[frozenset[str]]

    def order(self, context: Context) -> Context: ...


@runtime_checkable
class Transform(Protocol):
    """A component of kind `transform`: a changed context, with a mark of what was done in its provenance.

    needs: as an orderer's; one that read labels says so in its mark ('saw labels'). where: if it has this parameter,
    'demos', 'query' or 'all', what it changes; a transform without it leaves the query alone. analysis: of one whose
    demonstrations answer with other labels, the analysis that says what its arms show: no sentence on gains has them.
    """

    needs: ClassVar[frozenset[str]]

    def transform(self, context: Context) -> Context: ...


@runtime_checkable
class Composer(Protocol):
    """A component of kind `composer`: a context as a prompt with named parts, ending where the model answers."""

    def compose(self, context: Context) -> Prompt: ...
