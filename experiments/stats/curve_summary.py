"""The summary of a curve of accuracy over shots (VL-ICL Bench, Zong et al., ICLR 2025).

gain        acc_k - acc_0; `compare(frame, to={"shots": 0})` tests it in pairs
efficiency  the area between the curve and acc_0 over the number of shots, divided by its width: the mean gain. It is
            negative if shots hurt. The paper's normalizer is not published, so its values cannot be reproduced.
headroom    efficiency over 1 - acc_0; None if acc_0 is 1
peak        the best accuracy, 0 shots included; the fewest shots on a tie

If lower is better, gain and efficiency keep the sign of the difference, headroom is relative to acc_0, the peak is the
lowest score, and a monotone curve falls. Without a good direction headroom, peak and monotone are None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl.metrics.base import Better


@dataclass(frozen=True)
class CurveSummary:
    """The summary of one curve, in accuracy (0 to 1); `peak_shots` in demonstrations."""

    gain: float
    efficiency: float
    headroom: float | None
    peak: float | None
    peak_shots: int | None
    monotone: bool | None


def summarize_curve(shots: Sequence[int], accuracy: Sequence[float], better: Better = "higher") -> CurveSummary:
    """Summarizes one curve; its gain is that of the last point.

    Args:
        shots: [n >= 2] rising numbers of shots that start with 0.
        accuracy: [n] scores.
        better: The good direction of the score.

    Raises:
        ValueError: For other numbers of shots.
    """
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
