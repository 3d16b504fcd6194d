"""The published numbers in the config of a run, compared with the run's own."""

from experiments.analyses.published import PublishedNumber, published_numbers
from experiments.config.keys import PublishedSpec
from experiments.results.run_view import RunView


def compare_published(view: RunView) -> list[PublishedNumber]:
    """Each published number next to the run's own, for each model of the run that it may be compared with."""
    return [one for node in view.info["config"]["published"] for one in published_numbers(view, PublishedSpec(**node))]
