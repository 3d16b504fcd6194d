"""The section of claims in the report: difference, interval, p and verdict of each claim in every task and model."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

from experiments.report.svg import FOREST_WIDTH, LinearScale, forest
from experiments.results.claims import MARGIN, JudgedClaim, judge_claims
from experiments.results.run_view import RunView
from experiments.stats.formatting import format_count, format_interval, format_p_number, format_share, format_signed

VERDICT_CLASSES = {"survives": "better", "contradicted": "worse", "ruled out": "worse"}


@dataclass(frozen=True)
class ClaimRow:
    """A claim in one task and model, as text.

    Attributes:
        where: The task and model.
        metric: The metric.
        difference: The difference.
        interval: Its interval.
        svg: The interval as a drawing.
        p: The corrected p.
        verdict: The verdict.
        look: The class of the row.
    """

    where: str
    metric: str
    difference: str
    interval: str
    svg: str
    p: str
    verdict: str
    look: str


@dataclass(frozen=True)
class ClaimsSection:
    """The section of claims.

    Attributes:
        summary: How many claims survive, in words.
        claims: (claim, source, rows) of each claim.
        margin: The smallest difference that counts.
        scale: The ends of the drawings.
    """

    summary: str
    claims: tuple[tuple[str, str, tuple[ClaimRow, ...]], ...]
    margin: str
    scale: tuple[str, str]


def claims_section(view: RunView) -> ClaimsSection | None:
    """The section, or None for a run without claims or one that is not finished."""
    judged = judge_claims(view)
    if not judged:
        return None
    ends = [abs(end) for one in judged if (r := one.comparison.result) is not None for end in (r.low, r.high)]
    reach = max([MARGIN, *ends])
    groups = [(claim, list(own)) for claim, own in groupby(judged, key=lambda one: one.claim)]
    return ClaimsSection(
        summarize_claims([own for _, own in groups]),
        tuple((claim.claim, claim.source, tuple(_row(one, reach) for one in own)) for claim, own in groups),
        format_share(MARGIN, 2),
        (format_signed(-reach, 2), format_signed(reach, 2)),
    )


def summarize_claims(groups: list[list[JudgedClaim]]) -> str:
    """'20 claims. Survive wherever they were tested: 3. Undecided: 17.'"""
    kinds = Counter(_kind({one.verdict for one in own if one.verdict != "not run"}) for own in groups)
    words = [f"{name}: {kinds[name]}" for name in KINDS if kinds[name]]
    return f"{format_count(len(groups), 'claim')}. {'. '.join(words)}."


KINDS = (
    "Survive wherever they were tested",
    "Survive in a part of the tasks",
    "Contradicted or ruled out somewhere, and survive nowhere",
    "Undecided",
    "Not run",
)


def _kind(verdicts: set[str]) -> str:
    if not verdicts:
        return KINDS[4]
    if "survives" in verdicts:
        return KINDS[0] if verdicts == {"survives"} else KINDS[1]
    return KINDS[2] if verdicts & {"contradicted", "ruled out"} else KINDS[3]


def _row(one: JudgedClaim, reach: float) -> ClaimRow:
    result, where = one.comparison.result, one.comparison.subject
    look = VERDICT_CLASSES.get(one.verdict, "open")
    if result is None or one.reason:
        return ClaimRow(where, one.metric, "", one.reason, "", "", one.verdict, look)
    return ClaimRow(
        where,
        one.metric,
        format_signed(result.difference),
        format_interval(result.low, result.high),
        forest(LinearScale(-reach, reach, 6, FOREST_WIDTH - 6), result.low, result.difference, result.high),
        format_p_number(one.comparison.p),
        one.verdict,
        look,
    )
