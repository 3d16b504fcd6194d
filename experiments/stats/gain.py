"""What demonstrations bring, read from a curve of accuracy against shots (VL-ICL Bench, Zong et al., ICLR 2025).

gain        acc_k - acc_0, tested in pairs by `compare(frame, to={"shots": 0})`
efficiency  area between the curve and acc_0 on the true axis of shots, over its width: the mean gain, negative where
            shots hurt. The paper's normaliser is not published, so its values cannot be reproduced; `headroom`
            divides by 1 - acc_0 as well, and is None where nothing is left to gain.
peak        the best accuracy, 0 shots included; the fewest shots on a tie
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """The summary of one curve, all in accuracy (0 to 1), peak_shots in demonstrations."""

    gain: float
    efficiency: float
    headroom: float | None
    peak: float
    peak_shots: int
    monotone: bool


def curve(shots: Sequence[int], accuracy: Sequence[float]) -> Curve:
    """shots: rising, the first 0, at least two. gain is that of the last. Raises ValueError otherwise."""
    x, y = np.asarray(shots, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if len(x) < 2 or len(x) != len(y) or x[0] != 0 or np.any(np.diff(x) <= 0):
        raise ValueError("a curve needs rising numbers of shots that begin with 0, and an accuracy for each.")
    above = y - y[0]
    efficiency = float(np.sum((above[1:] + above[:-1]) / 2 * np.diff(x)) / x[-1])
    best = int(np.argmax(y))
    return Curve(
        gain=float(y[-1] - y[0]),
        efficiency=efficiency,
        headroom=efficiency / float(1 - y[0]) if y[0] < 1 else None,
        peak=float(y[best]),
        peak_shots=int(x[best]),
        monotone=bool(np.all(np.diff(y) >= 0)),
    )
