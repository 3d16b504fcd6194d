"""Names of the statistical tests of a comparison, as sentences."""

from collections.abc import Iterable, Mapping

SHORT: Mapping[frozenset[str], str] = {
    frozenset({"mcnemar"}): "exact McNemar",
    frozenset({"randomization"}): "randomization (arms exchanged within units)",
    frozenset({"randomization", "mcnemar"}): ("randomization (arms exchanged within units), McNemar where right/wrong"),
}
"""The names of tests for a line below a table, by the sets of tests in a comparison."""

LONG: Mapping[frozenset[str], str] = {
    frozenset({"mcnemar"}): "Exact McNemar test.",
    frozenset({"randomization"}): "Randomization test: arms exchanged within pairs.",
    frozenset({"randomization", "mcnemar"}): (
        "Randomization test (arms exchanged within pairs) for graded scores, else exact McNemar."
    ),
}
"""The names of tests for the page."""


def describe_tests(tests: Iterable[str], words: Mapping[frozenset[str], str]) -> str:
    """The names of a set of tests. A mix without a name of its own has those of its tests. Raises ValueError."""
    names = frozenset(tests)
    if names in words:
        return words[names]
    unknown = sorted(one for one in names if frozenset({one}) not in words)
    if unknown or not names:
        raise ValueError(f"no words for the tests {unknown} of a comparison; known are {sorted(map(sorted, words))}.")
    return "; ".join(words[frozenset({one})] for one in sorted(names))
