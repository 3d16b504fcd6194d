"""The first connector: a linear map under which single coordinates of a picture token are single facts.

A tower's token holds each fact in some direction, mixed with the others and of very different strength; a decoder that
starts from it learns to compare colours soon and textures, sizes and numbers hardly at all. A ridge regression onto the
facts gives each of them coordinates of its own, of equal strength. Training goes on from there.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icl.models.tiny.pool import COLUMN, COUNT_FACTS, SINGLE_FACTS
from icl.tasks.generated.world import SEEN


def fact_targets(facts: NDArray[np.int64]) -> NDArray[np.float32]:
    """facts [N, F] -> standardised targets [N, D]: a class is one coordinate, a number of its kind another."""
    columns = []
    for name, classes in SINGLE_FACTS.items():
        if name != "kind":
            columns += [facts[:, COLUMN[name]] == k for k in range(classes)]
    counted = [*COUNT_FACTS, *(f"n_{colour}_{shape}" for colour, shape in SEEN)]
    columns += [facts[:, COLUMN[name]].clip(0, 3) for name in counted]
    raw = np.stack(columns, 1).astype(np.float32)
    varied = raw[:, raw.std(0) > 1e-3]
    standard: NDArray[np.float32] = (varied - varied.mean(0)) / varied.std(0)
    return standard


def fact_code(tokens: Tensor, facts: NDArray[np.int64], ridge: float = 1e-3) -> Tensor:
    """tokens [N, width], their facts [N, F] -> weights [width, width] of the map. Rows left over are random directions.

    Every coordinate of a mapped token has unit mean square over the pool. Needs at most `width` targets.
    """
    x, y = tokens.double(), torch.from_numpy(fact_targets(facts)).double()
    gram = x.T @ x / len(x)
    gram += ridge * gram.diagonal().mean() * torch.eye(x.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(gram, x.T @ y / len(x)).T
    rest = torch.randn(x.shape[1] - len(found), x.shape[1], dtype=torch.float64)
    weights = torch.cat((found, rest))
    scale = ((weights @ (x.T @ x / len(x))) * weights).sum(1).sqrt()
    return (weights / scale[:, None]).float()
