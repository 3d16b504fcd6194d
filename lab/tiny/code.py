"""The initial connector: a linear map under which single coordinates of an image token are single facts.

A tower's token holds each fact in some direction, mixed with the others and of very different strength; a decoder that
starts from it learns to compare colors soon and textures, sizes and numbers hardly at all. A ridge regression onto the
facts gives each of them coordinates of its own, and `STRENGTH` says how strong. Training goes on from there.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icl.tasks.generated.world import TRAINING_CONCEPTS
from lab.tiny.pool import COLUMN, COUNT_FACTS, SINGLE_FACTS

STRENGTH = {"texture": 2.0, "size": 1.5, "count": 1.5}


def fact_targets(facts: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """facts [N, F] -> targets [N, D] and their strengths [D]: a class is one coordinate, a number of its kind another.

    Targets are standardized; those that never vary are left out.
    """
    columns, strengths = [], []
    for name, classes in SINGLE_FACTS.items():
        if name != "kind":
            columns += [facts[:, COLUMN[name]] == k for k in range(classes)]
            strengths += [STRENGTH.get(name, 1.0)] * classes
    counted = [*COUNT_FACTS, *(f"n_{color}_{shape}" for color, shape in TRAINING_CONCEPTS)]
    columns += [facts[:, COLUMN[name]].clip(0, 3) for name in counted]
    strengths += [1.0] * len(counted)
    raw = np.stack(columns, 1).astype(np.float32)
    varies = raw.std(0) > 1e-3
    raw = raw[:, varies]
    return (raw - raw.mean(0)) / raw.std(0), np.array(strengths, np.float32)[varies]


def fact_code(tokens: Tensor, facts: NDArray[np.int64], ridge: float = 1e-3) -> Tensor:
    """tokens [N, width], their facts [N, F] -> weights [width, width] of the map. Rows left over are random directions.

    A coordinate's root mean square over the pool is its strength. Needs at most `width` targets.
    """
    targets, strengths = fact_targets(facts)
    x, y = tokens.double(), torch.from_numpy(targets).double()
    gram = x.T @ x / len(x)
    gram += ridge * gram.diagonal().mean() * torch.eye(x.shape[1], dtype=torch.float64)
    fact_rows = torch.linalg.solve(gram, x.T @ y / len(x)).T
    rest = torch.randn(x.shape[1] - len(fact_rows), x.shape[1], dtype=torch.float64)
    weights = torch.cat((fact_rows, rest))
    scale = ((weights @ (x.T @ x / len(x))) * weights).sum(1).sqrt()
    strength = torch.ones_like(scale)
    strength[: len(fact_rows)] = torch.from_numpy(strengths)
    return (weights * (strength / scale)[:, None]).float()
