"""Curricula over function classes: which class at which step, and what a model and least squares reach."""

import numpy as np
import pytest
import torch

from lab.tiny.functions import (
    CLASSES,
    Setting,
    chebyshev,
    class_at,
    least_squares_errors,
    main,
    relative_errors,
    sample_batch,
    train,
)

NAMES = list(CLASSES)
SMALL = Setting("random", steps=60, points=6, batch=32, width=16, layers=1, rate=1e-2)


def classes(curriculum: str, block: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    names = [class_at(curriculum, step, 3000, rng) for step in range(1000 * block, 1000 * (block + 1))]
    return {name: names.count(name) / 1000 for name in NAMES}


def test_a_curriculum_says_which_classes_a_block_has() -> None:
    for block in range(3):
        assert classes("sequential", block) == {name: float(i == block) for i, name in enumerate(NAMES)}
        assert list(classes("random", block).values()) == pytest.approx([1 / 3] * 3, abs=0.05)
        expected = [1 / (block + 1) if i <= block else 0 for i in range(3)]
        assert list(classes("mixed", block).values()) == pytest.approx(expected, abs=0.05)


def test_functions_are_polynomials_of_their_degree() -> None:
    x = torch.linspace(-1, 1, 5)
    assert torch.allclose(chebyshev(x, 3)[:, 3], 4 * x**3 - 3 * x)
    for name, degree in CLASSES.items():
        x, y = sample_batch(name, 3, 9, torch.Generator().manual_seed(0))
        fits = [
            np.polyfit(a, b, degree, full=True)[1] for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)
        ]
        assert all(residual[0] < 1e-8 for residual in fits)


def test_a_prediction_reads_earlier_pairs_only_and_training_lowers_the_error() -> None:
    model = train(SMALL)
    x, y = sample_batch("cubic", 4, 6, torch.Generator().manual_seed(1))
    changed = y.clone()
    changed[:, 3:] += 1
    assert torch.allclose(model(x, y)[:, :4], model(x, changed)[:, :4], atol=1e-6)
    assert not torch.allclose(model(x, y)[:, 4:], model(x, changed)[:, 4:])
    untrained = relative_errors(train(Setting("random", 0, 6, width=16, layers=1)), SMALL)
    trained = relative_errors(model, SMALL)
    assert all(trained[name] < untrained[name] for name in NAMES)
    assert relative_errors(train(SMALL), SMALL) == trained
    assert all(error < 1e-3 for error in least_squares_errors(SMALL).values())


def test_the_command_prints_a_row_per_curriculum(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--steps", "2", "--points", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["curriculum", "random", "sequential", "mixed", "least"]
