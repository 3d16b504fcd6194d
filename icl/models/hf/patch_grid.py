"""Which patch of an image does each of its tokens stand for? Measured, because no two processors say it in one way.

Some models have one token for each patch, in rows. Others cut tiles, pool everything into a few queries, crop or pad.
So a gray image gets a white square at each place of a 5 x 5 lattice, and every token's state after the first layer
tells how much it changes:

    c[s, t]  |x_t(square s) - x_t(gray)| / |x_t(gray)|
    d        log c without the means of squares and of tokens: a square changes all tokens where attention is global
    place t  mean of the squares' places, weighted by max(d, 0)

The grid is the one of all rows x columns = tokens that fits these places best. It must fit well (`FIT`), each square
must change a token in it or next to it most (`HITS`), and strips at the four borders must change something, since a
model that crops does not see them.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from icl import PIL, Image, ModelError, Part, Prompt, Site, Turn, Where, spans

SIDE = 5
"""Squares of a row, and rows of them."""
STRIP = 20
"""A strip at a border is one in so many parts of the image."""
FIT = 0.7
"""Least correlation of measured and expected places, of rows and of columns."""
HITS = 0.75
"""Least share of squares that change a token in it or next to it most."""
BLIND = 1e-3
"""A change is none if it is smaller than this share of the median change."""


def measure_grid(
    observe: Callable[[Sequence[Prompt], Sequence[Site], Where], list[dict[Site, Tensor]]],
    name: str,
    size: tuple[int, int],
) -> tuple[int, int]:
    """Rows and columns of the tokens of an image among others. Raises ModelError if they form no grid.

    Args:
        observe: `HF.observe` of the model.
        name: Name of the model, for the message.
        size: Width and height of the image in pixels.
    """
    prompts, site = [_prompt(image) for image in probe_images(size)], Site("residual", 0)
    states = [own[site] for own in observe(prompts, [site], Where("query_images"))]
    problem = "an image is one token of this model"
    if len(states[0]) > 1:
        grid = grid_of(torch.stack(states))
        if isinstance(grid, tuple):
            return grid
        problem = grid
    raise ModelError(
        f"{name}: {problem}, so no token stands for a patch of an image of {size[0]} x {size[1]} pixels. Maps "
        "need a model with a token for each patch: no tiles, no pooling, no crop."
    )


def probe_images(size: tuple[int, int]) -> "Iterator[PIL.Image.Image]":
    """A gray image, then one with each white square, then one with each white strip at a border."""
    width, height = size
    gray = PIL.Image.new("RGB", size, (120, 120, 120))
    yield gray
    lattice = [(x / SIDE, y / SIDE, (x + 1) / SIDE, (y + 1) / SIDE) for y in range(SIDE) for x in range(SIDE)]
    strips = [(0, 0, 1, 1 / STRIP), (0, 1 - 1 / STRIP, 1, 1), (0, 0, 1 / STRIP, 1), (1 - 1 / STRIP, 0, 1, 1)]
    for left, top, right, bottom in (*lattice, *strips):
        box = (int(left * width), int(top * height), math.ceil(right * width), math.ceil(bottom * height))
        image = gray.copy()
        image.paste((255, 255, 255), box)
        yield image


def grid_of(states: Tensor) -> tuple[int, int] | str:
    """The grid of the tokens, or why there is none.

    Args:
        states: Of the tokens of each of `probe_images`: [1 + SIDE ** 2 + 4, n, d].
    """
    changes = (states[1:] - states[0]).norm(dim=-1) / states[0].norm(dim=-1)
    squares, strips = changes[: SIDE**2], changes[SIDE**2 :]
    if strips.amax(1).min() <= BLIND * squares.amax(1).median():
        return "the image processor crops images"
    logs = squares.clamp(min=1e-9).log()
    own = logs - logs.mean(0) - logs.mean(1, keepdim=True) + logs.mean()
    weights = own.clamp(min=0)
    middle = (torch.arange(SIDE**2)[:, None] // torch.tensor([SIDE, 1]) % SIDE + 0.5) / SIDE  # [squares, 2]: y, x
    places = (weights.T @ middle) / weights.sum(0)[:, None].clamp(min=1e-9)  # [n, 2]
    count = states.shape[1]
    sides = [(rows, count // rows) for rows in range(2, count) if count % rows == 0 and count // rows > 1]
    fits = {grid: min(_correlation(a, b) for a, b in zip(places.T, _middles(*grid).T, strict=True)) for grid in sides}
    grid = max(fits, key=fits.__getitem__, default=(0, 0))
    if not fits or fits[grid] < FIT:
        return f"its {count} tokens form no grid"
    near = torch.tensor([0.5 / SIDE + 1 / side for side in grid])
    hits = ((_middles(*grid)[own.argmax(1)] - middle).abs() <= near).all(1).float().mean()
    return grid if hits >= HITS else f"its {count} tokens form no grid over the whole image"


def _middles(rows: int, columns: int) -> Tensor:
    """The middle (y, x) of each patch as shares of the image: [rows * columns, 2]."""
    number = torch.arange(rows * columns)
    return torch.stack([(number // columns + 0.5) / rows, (number % columns + 0.5) / columns], 1)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num(0.0))


def _prompt(image: "PIL.Image.Image") -> Prompt:
    """The image after itself, because some processors cut tiles of an image that is alone."""
    parts = [Part(Image.from_pil(image), spans.image(owner)) for owner in (spans.demo(0), spans.QUERY)]
    return Prompt((Turn("user", (*parts, Part("?", spans.QUESTION))),))
