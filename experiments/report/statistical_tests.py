"""What a comparison was tested by, in words: of the tests that its rows name, each one, and no other."""

from collections.abc import Iterable, Mapping

SHORT: Mapping[frozenset[str], str] = {
    frozenset({"mcnemar"}): "exact McNemar",
    frozenset({"randomization"}): "randomization (the arms exchanged within units)",
    frozenset({"randomization", "mcnemar"}): (
        "randomization (the arms exchanged within units), McNemar where right/wrong"
    ),
}
"""The tests of `experiments.stats.pairs.Comparison` -> for a line below a table."""

LONG: Mapping[frozenset[str], str] = {
    frozenset({"mcnemar"}): "Exact McNemar test.",
    frozenset({"randomization"}): "Randomization test: the two arms exchanged within pairs.",
    frozenset({"randomization", "mcnemar"}): (
        "Randomization test (the two arms exchanged within pairs) for graded scores, else exact McNemar."
    ),
}
"""The same for the page."""


def describe_tests(tests: Iterable[str], words: Mapping[frozenset[str], str]) -> str:
    """The words of a set of tests; of a mix that has none of its own, those of each. Raises ValueError for others."""
    names = frozenset(tests)
    if names in words:
        return words[names]
    unknown = sorted(one for one in names if frozenset({one}) not in words)
    if unknown or not names:
        raise ValueError(f"no words for the tests {unknown} of a comparison; known are {sorted(map(sorted, words))}.")
    return "; ".join(words[frozenset({one})] for one in sorted(names))
