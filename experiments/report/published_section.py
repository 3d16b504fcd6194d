"""The section of published numbers in the report: published, here, difference."""

from dataclasses import dataclass

from experiments.results.published import PublishedNumber, compare_published
from experiments.results.run_view import RunView
from experiments.stats.formatting import format_estimate, format_interval, format_share, format_signed


@dataclass(frozen=True)
class PublishedRow:
    """A published number beside that of the run, as text.

    Attributes:
        arm: The arm.
        metric: The metric.
        source: Where it is published.
        of: The model that was measured.
        published: The number.
        model: The model of the run, or why there is no number.
        here: The number of the run.
        difference: The difference with its interval.
        is_same_model: Whether both are of one model.
    """

    arm: str
    metric: str
    source: str
    of: str
    published: str
    model: str
    here: str
    difference: str
    is_same_model: bool


def published_section(view: RunView) -> list[PublishedRow]:
    """The rows, in the order of the file."""
    return [_row(one) for one in compare_published(view)]


def _row(one: PublishedNumber) -> PublishedRow:
    spec, here = one.spec, one.here
    form = format_signed if spec.minus else format_share
    difference, low, high = one.difference
    if here is None:
        own = ""
    elif spec.minus:
        own = f"{format_signed(here.mean)} {format_interval(here.low, here.high)}"
    else:
        own = format_estimate(here.mean, here.low, here.high)
    return PublishedRow(
        one.arm,
        one.metric,
        spec.source,
        spec.model or "–",
        form(spec.value),
        one.model if here else one.refused,
        own,
        f"{format_signed(difference)} {format_interval(low, high)}" if here else "",
        one.is_same_model,
    )
