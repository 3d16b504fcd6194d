"""Sensitivity-aware task vectors: sensitivities and centers by hand, and their relation to mtv."""

from pathlib import Path

import pytest
import torch

from decoding.interventions.edits import HeadEdit
from decoding.interventions.fit_data import FitData
from decoding.interventions.head_effects import head_edit, head_sites, mean_head_inputs
from decoding.interventions.stv import STV, cluster_centers, sensitivities
from tests.decoding.interventions.dev_split import dev, tiny, write


def test_sensitivities_by_hand() -> None:
    before = torch.ones(2, 1, 2, 2)
    differences = torch.tensor([[[[2.0, 0.0], [1.0, 0.0]]], [[[2.0, 0.0], [-1.0, 0.0]]]])
    scores = sensitivities(differences, before)
    assert scores[0].tolist() == pytest.approx([2 / 2**0.5, -1 / 2**0.5])  # all agree; opposite


def test_centers_are_means_of_their_groups() -> None:
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [10.0, 0.0], [10.0, 1.0]])
    assert cluster_centers(inputs, 1, 0).tolist() == [[5.0, 0.5]]
    assert sorted(cluster_centers(inputs, 2, 0).tolist()) == [[0.0, 0.5], [10.0, 0.5]]


def test_with_one_cluster_the_edit_is_that_of_mean_inputs_in_its_heads(tmp_path: Path) -> None:
    data = FitData(tiny(), dev(8, 1), dev(8, 2), max_new_tokens=4)
    method = write(tmp_path / "stv.safetensors", STV(), STV(clusters=1, num_heads=6).fit(data))
    report = method.file.report
    assert report["losses"] == sorted(report["losses"], reverse=True)
    assert report["steered"] >= report["zero_shot"]
    edit = method.intervention()
    assert isinstance(edit, HeadEdit)
    layers = [site.layer for site in head_sites(tiny())]
    heads = [(i, head) for i, head in method.file.parameters["heads"]]
    assert 0 < len(heads) <= 6
    same = head_edit(layers, mean_head_inputs(data)["few_shot"], heads, where=edit.where)
    assert all(torch.allclose(edit.values[layer], same.values[layer], atol=1e-5) for layer in edit.heads)
    assert edit.heads == same.heads
