"""The Banzhaf value of each demonstration, from scores of sets (Banzhaf 1965; Wang and Jia, AISTATS 2023).

    value of e = mean over the sets S without e of  v(S + e) - v(S)

Over all sets this equals the mean score of the sets with e minus the mean score of the sets without it. Random sets
estimate both means, and each score is used for every member (maximum sample reuse).
"""

import numpy as np
from numpy.typing import NDArray


def banzhaf_values(is_member: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The estimated values, [E]. NaN for a member that is in every set or in none.

    Args:
        is_member: [sets, E] whether a member is in a set.
        scores: [sets] finite scores.
    """
    with np.errstate(invalid="ignore"):
        with_member, without = (scores @ own / own.sum(axis=0) for own in (is_member, ~is_member))
    return np.asarray(with_member - without)


def complementary_sets(members: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Random sets and their complements, [sets, members]: about `members` sets, and each member is in half of them."""
    rows = rng.random((max(members // 2, 1), members)) < 0.5
    return np.vstack([rows, ~rows])
