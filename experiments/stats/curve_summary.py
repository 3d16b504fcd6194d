"""What demonstrations bring, read from a curve of accuracy against shots (VL-ICL Bench, Zong et al., ICLR 2025).

gain        acc_k - acc_0, tested in pairs by `compare(frame, to={"shots": 0})`
efficiency  area between the curve and acc_0 on the true axis of shots, over its width: the mean gain, negative where
            shots hurt. The paper's normalizer is not published, so its values cannot be reproduced; `headroom`
            divides by 1 - acc_0 as well, and is None where nothing is left to gain.
peak        the best accuracy, 0 shots included; the fewest shots on a tie

Of a metric that is better when lower, gain and efficiency keep the sign of the difference, headroom is the share of
acc_0 that is taken away, the peak is the lowest score, and a monotone curve falls. Where neither way is good there are
no headroom, peak and monotone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl.metrics.base import Better


@dataclass(frozen=True)
class CurveSummary:
    """The summary of one curve, all in accuracy (0 to 1), peak_shots in demonstrations."""

    gain: float
    efficiency: float
    headroom: float | None
    peak: float | None
    peak_shots: int | None
    monotone: bool | None


def summarize_curve(shots: Sequence[int], accuracy: Sequence[float], better: Better = "higher") -> CurveSummary:
    """shots: rising, the first 0, at least two. gain is that of the last. Raises ValueError otherwise."""
    x, y = np.asarray(shots, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if len(x) < 2 or len(x) != len(y) or x[0] != 0 or np.any(np.diff(x) <= 0):
        raise ValueError("a curve needs rising numbers of shots that begin with 0, and an accuracy for each.")
    above = y - y[0]
    efficiency = float(np.sum((above[1:] + above[:-1]) / 2 * np.diff(x)) / x[-1])
    gain = float(y[-1] - y[0])
    if better == "neither":
        return CurveSummary(gain, efficiency, headroom=None, peak=None, peak_shots=None, monotone=None)
    sign, left = (1, float(1 - y[0])) if better == "higher" else (-1, float(y[0]))
    best = int(np.argmax(sign * y))
    return CurveSummary(
        gain=gain,
        efficiency=efficiency,
        headroom=sign * efficiency / left if left > 0 else None,
        peak=float(y[best]),
        peak_shots=int(x[best]),
        monotone=bool(np.all(sign * np.diff(y) >= 0)),
    )
