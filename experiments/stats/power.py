"""Power of a grid: the smallest paired difference that a two-sided test detects with a given probability.

For n independent right/wrong pairs of which a share psi differs (Miettinen 1968; Connor 1987):

    sqrt(n) delta = z_(1-level/2) sqrt(psi) + z_power sqrt(psi - delta^2),   solved for delta

A difference cannot exceed the share of pairs that differ. If the solution has delta > psi, the result is the smallest
delta that is detected if all differing pairs go one way (psi = delta). This is a normal approximation of the test in
`significance`.
"""

import math

from experiments.stats.intervals import normal_quantile

LEVEL, POWER = 0.05, 0.8
DISCORDANCE = 0.2
"""An assumption before there are data: the two arms answer one pair in five differently."""


def smallest_detectable_difference(pairs: int, discordance: float = DISCORDANCE) -> float:
    """The smallest difference in accuracy that is detected; infinite if not even 1 is.

    The two-sided test has the level LEVEL and the power POWER.

    Args:
        pairs: The number of independent pairs: queries or groups, not queries x seeds.
        discordance: The share of pairs that differ.

    Raises:
        ValueError: For less than one pair or a discordance outside (0, 1].
    """
    if pairs < 1 or not 0 < discordance <= 1:
        raise ValueError("needs at least one pair and a discordance above 0 and at most 1.")
    delta = _solved(pairs, discordance)
    if delta <= discordance:
        return delta
    return next((d for d in (i / 10_000 for i in range(1, 10_001)) if _solved(pairs, d) <= d), math.inf)


def _solved(n: int, psi: float) -> float:
    """The larger root of (n + zb^2) d^2 - 2 sqrt(n psi) za d + (za^2 - zb^2) psi = 0."""
    za, zb = normal_quantile(1 - LEVEL / 2), normal_quantile(POWER)
    inside = n + zb * zb - za * za
    if inside < 0:
        return math.inf
    return math.sqrt(psi) * (math.sqrt(n) * za + zb * math.sqrt(inside)) / (n + zb * zb)
