"""Sensitivity-aware task vectors: against plain forward passes with hooks, and their relation to mtv."""

import math
from pathlib import Path

import torch

from decoding.interventions.edits import HeadEdit
from decoding.interventions.fit_data import FitData
from decoding.interventions.head_effects import RATE, SAMPLES, head_edit, head_sites, mean_head_inputs
from decoding.interventions.stv import STV, cluster_centers, logprobs, sampled_centers
from icl.types import Prompt
from tests.decoding.interventions.dev_split import dev, tiny, write


def test_centers_are_means_of_their_groups() -> None:
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [10.0, 0.0], [10.0, 1.0]])
    assert cluster_centers(inputs, 1, 0).tolist() == [[5.0, 0.5]]
    assert sorted(cluster_centers(inputs, 2, 0).tolist()) == [[0.0, 0.5], [10.0, 0.5]]


def plain_pass(prompt: Prompt, edits: dict[tuple[int, int], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Head inputs at the last token [L, H, e], and log-probabilities after it, in one pass with hooks of its own."""
    model, read = tiny(), []
    sites = head_sites(model)
    size = mean_size(model)

    def hook(i: int):  # type: ignore[no-untyped-def]
        def change(module, args):  # type: ignore[no-untyped-def]
            (hidden,) = args
            hidden = hidden.clone()
            read.append(hidden[0, -1].view(-1, size).clone())
            for (layer, head), value in edits.items():
                if layer == i:
                    hidden[0, -1, head * size : (head + 1) * size] = value
            return (hidden,)

        return change

    projections = [model.sites.projection(site.layer) for site in sites]
    handles = [one.register_forward_pre_hook(hook(i)) for i, one in enumerate(projections) if one is not None]
    try:
        logits = model.open([prompt]).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(read), logits.log_softmax(-1)


def mean_size(model) -> int:  # type: ignore[no-untyped-def]
    return int(FitData(model, dev(2, 1), dev(2, 2)).states([dev(2, 1)[0].prompt], head_sites(model)).shape[-1])


def test_the_fit_is_that_of_a_loop_with_plain_forward_passes() -> None:
    """Sensitivities, centers, and two steps of REINFORCE with Adam by its formula, one sample at a time."""
    data = FitData(tiny(), dev(6, 1), dev(4, 2), max_new_tokens=4)
    fitted = STV(num_heads=3, clusters=2, steps=2).fit(data)
    few = torch.stack([plain_pass(one.prompt, {})[0] for one in data.sources])
    zero = torch.stack([plain_pass(one.without_demonstrations, {})[0] for one in data.sources])
    scores = sum((a - b).square().sum(-1).sqrt() for a, b in zip(few, zero, strict=True)) / len(few)
    torch.testing.assert_close(fitted.tensors["sensitivities"], scores, atol=1e-4, rtol=1e-4)
    ranked = sorted((float(scores[i, h]), i, h) for i in range(len(scores)) for h in range(scores.shape[1]))[::-1]
    heads = [(i, h) for _, i, h in ranked[:3]]
    assert fitted.parameters["heads"] == heads
    bank = torch.stack([cluster_centers(few[:, i, h], 2, data.seed) for i, h in heads])
    logits, first, second = torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2)
    generator = torch.Generator().manual_seed(data.seed)
    for step in range(1, 3):
        one = data.sources[int(torch.randint(len(data.sources), (), generator=generator))]
        token = tiny().option_ids(one.without_demonstrations, [one.answers[0]])[0][0]
        chosen = sampled_centers(logits, SAMPLES, generator)
        losses = []
        for own in chosen.tolist():
            edits = {head: bank[k, center] for k, (head, center) in enumerate(zip(heads, own, strict=True))}
            losses.append(-float(plain_pass(one.without_demonstrations, edits)[1][token]))
        mean = sum(losses) / SAMPLES
        deviation = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (SAMPLES - 1))
        slope = torch.zeros(3, 2)  # the gradient of log softmax is the choice minus the probabilities
        for own, loss in zip(chosen.tolist(), losses, strict=True):
            for k, center in enumerate(own):
                slope[k] += (loss - mean) / deviation / SAMPLES * (torch.eye(2)[center] - logits[k].softmax(-1))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        logits = logits - RATE * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(fitted.tensors["logits"], logits, atol=1e-4, rtol=1e-4)
    for k, (i, h) in enumerate(heads):
        chosen_center = bank[k, int(logits[k].argmax())]
        torch.testing.assert_close(fitted.tensors["heads"][i, h], chosen_center, atol=1e-4, rtol=1e-4)


def test_samples_follow_the_softmax_and_absent_centers_are_never_taken() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [0.0, 0.0, 0.0]])
    chosen = sampled_centers(logits, 4000, torch.Generator().manual_seed(0))
    shares = torch.stack([(chosen == center).float().mean(0) for center in range(3)], -1)
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.03, rtol=0)
    free = logits.clone().requires_grad_()
    logprobs(free, chosen).mean().backward()  # type: ignore[no-untyped-call]
    assert free.grad is not None
    assert free.grad.isfinite().all()


def test_with_one_cluster_the_edit_is_that_of_mean_inputs_in_its_heads(tmp_path: Path) -> None:
    data = FitData(tiny(), dev(8, 1), dev(8, 2), max_new_tokens=4)
    method = write(tmp_path / "stv.safetensors", STV(), STV(clusters=1, num_heads=6).fit(data))
    assert method.file.report["accuracy"]["mean inputs"] == method.file.report["accuracy"]["chosen centers"]
    edit = method.intervention()
    assert isinstance(edit, HeadEdit)
    layers = [site.layer for site in head_sites(tiny())]
    heads = [(i, head) for i, head in method.file.parameters["heads"]]
    assert len(heads) == 6
    same = head_edit(layers, mean_head_inputs(data)["few_shot"], heads, where=edit.where)
    assert all(torch.allclose(edit.values[layer], same.values[layer], atol=1e-5) for layer in edit.heads)
    assert edit.heads == same.heads
