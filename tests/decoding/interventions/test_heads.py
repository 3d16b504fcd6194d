"""Function vectors and multimodal task vectors: effects of heads, known gains on the shipped model, and controls."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch

from decoding.interventions.edits import HeadEdit, VectorEdit, with_heads
from decoding.interventions.fit_data import FitData
from decoding.interventions.function_vector import FunctionVector
from decoding.interventions.head_effects import (
    HeadEffects,
    head_contributions,
    head_effects,
    head_sites,
    mean_head_inputs,
    random_heads,
    strongest,
)
from decoding.interventions.mtv import MTV, sampled_masks
from decoding.interventions.stv import STV
from decoding.interventions.vector_file import FittedTensors
from icl.errors import ConfigError, DataError, ModelError
from icl.models.hf.model import HF
from icl.models.interventions import Site, steer
from icl.types import Prompt
from tests.decoding.interventions.dev_split import accuracy, dev, tiny, write


@pytest.fixture(scope="module")
def data() -> FitData:
    return FitData(tiny(), dev(10, 1), dev(10, 2), max_new_tokens=4)


@pytest.fixture(scope="module")
def means(data: FitData) -> dict[str, torch.Tensor]:
    return mean_head_inputs(data)


def test_heads_are_replaced_by_hand() -> None:
    x = torch.zeros(2, 3, 2)
    edited = with_heads(x, [0, 2], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    assert edited[0].tolist() == [[1, 2], [0, 0], [3, 4]]
    added = with_heads(edited, [2], torch.tensor([[1.0, 1.0]]), 2, "add")
    assert added[0].tolist() == [[1, 2], [0, 0], [5, 6]]
    assert edited[0].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert not x.any()


def test_the_contributions_of_all_heads_are_what_attention_adds(data: FitData) -> None:
    """The sum over heads, and the bias once, is the output of the attention block."""
    prompt = data.sources[0].prompt
    model = tiny()
    inputs = data.states([prompt], head_sites(model))[0]
    added = data.states([prompt], model.sites.all("attention"))[0]
    projection = model.sites.projection(0)
    bias = 0 if projection.bias is None else projection.bias.detach()  # type: ignore[union-attr]
    assert torch.allclose(head_contributions(model, inputs)[0].sum(0) + bias, added[0], atol=1e-4)


def test_the_bias_of_the_projection_belongs_to_no_head(data: FitData) -> None:
    inputs = data.states([data.sources[0].prompt], head_sites(tiny()))[0]
    projection = tiny().sites.projection(1)
    without = head_contributions(tiny(), inputs)
    before = projection.bias  # type: ignore[union-attr]
    projection.bias = torch.nn.Parameter(torch.full((160,), 3.0))  # type: ignore[union-attr]
    try:
        assert torch.allclose(head_contributions(tiny(), inputs), without, atol=1e-4)
    finally:
        projection.bias = before  # type: ignore[union-attr]


def test_contributions_are_refused_where_the_output_of_attention_is_normalized(tmp_path: Path) -> None:
    model = HF(path=str(tiny_models.save("gemma3", tmp_path)), device="cpu")
    model.load()
    layers = len(head_sites(model))
    with pytest.raises(ModelError, match=r"^Gemma3\w+ normalizes what attention gives at layer 0 \(Gemma3RMSNorm\)"):
        head_contributions(model, torch.zeros(layers, model.sites.num_heads(0), 4))


def test_effects_in_one_batch_are_those_of_single_rows(data: FitData, means: dict[str, torch.Tensor]) -> None:
    prompts = data.choice[:2]
    measured = head_effects(data, means["few_shot"], prompts)
    effects = measured.effects
    assert effects.shape == (4, 5)
    layer, head = 2, 1
    edit = HeadEdit({layer: (head,)}, {layer: means["few_shot"][layer, head : head + 1]})
    by_hand = []
    for one in prompts:
        base = one.with_shuffled_answers
        token = tiny().option_ids(base, [one.answers[0]])[0][0]
        before, after = (tiny().open([p]).logits[0].softmax(-1)[token] for p in (base, steer(base, edit)))
        by_hand.append(float(after - before))
    assert abs(float(effects[layer, head]) - sum(by_hand) / 2) < 1e-4
    assert strongest(torch.tensor([[0.1, 0.5], [0.4, 0.2]]), 3) == [(0, 1), (1, 0), (1, 1)]


def test_a_function_vector_recovers_the_task_and_random_vectors_do_not(data: FitData, tmp_path: Path) -> None:
    """Known answer: a few heads are enough, most of them in layer 2."""
    method = write(tmp_path / "fv.safetensors", FunctionVector(), FunctionVector().fit(data))
    test = dev(20, 3)
    off = accuracy(replace(method, strength=0.0), test)
    assert accuracy(method, test) > off + 0.3
    draws = [accuracy(replace(method, control="random", draw=draw), test) for draw in range(4)]
    assert sum(draws) / 4 < off + 0.15
    assert [one.control for one in method.controls()] == ["random", "random_heads", "shuffled", "zero_shot"]  # type: ignore[attr-defined]
    assert method.file.report["base_probability"] > 0.5
    assert all(effect > 0 for _, _, effect in method.file.report["heads"][: method.file.parameters["num_heads"]])
    edit = method.intervention()
    assert isinstance(edit, VectorEdit)
    one = replace(method, num_heads=1, layer=1).intervention()
    (i, head), *_ = strongest(method.file.tensors["effects"], 1)
    assert torch.equal(one.vectors[Site("residual", 1)], method.file.tensors["contributions"][i, head])  # type: ignore[attr-defined]


def test_few_heads_replaced_recover_the_task_and_all_heads_fail(data: FitData, tmp_path: Path) -> None:
    method = write(tmp_path / "mtv.safetensors", MTV(), MTV().fit(data))
    test = dev(20, 3)
    off = accuracy(replace(method, strength=0.0), test)
    assert accuracy(method, test) > off + 0.3
    assert accuracy(replace(method, num_heads=20), test) < 0.35
    assert accuracy(replace(method, num_heads=20, how="add"), test) > off + 0.3  # the query is still read


def test_a_difference_added_to_heads_leaves_their_mean_where_replacing_puts_it(tmp_path: Path) -> None:
    method = made(tmp_path / "ten.safetensors", MTV())
    assert isinstance(method, MTV)
    added, replacing = replace(method, how="add").intervention(), method.intervention()
    before = method.file.tensors["heads.zero_shot"][0][None]
    site = Site("heads", 0)
    assert torch.allclose(added.edit(site, before, [0])[:, :3], replacing.edit(site, before, [0])[:, :3], atol=1e-6)
    assert added.digest != replacing.digest
    controls = [one.control for one in replace(method, how="add").controls()]  # type: ignore[attr-defined]
    assert controls == ["random", "random_heads", "shuffled"]  # a mean minus itself is off
    random = replace(method, how="add", control="random").intervention()
    assert torch.allclose(random.values[0].norm(dim=-1), added.values[0].norm(dim=-1))


def made(path: Path, method: FunctionVector | MTV | STV) -> FunctionVector | MTV | STV:
    """A method with a file of ten heads, of which the first three have an effect above 0."""
    generator = torch.Generator().manual_seed(0)
    effects = torch.linspace(0.3, -0.6, 10).view(2, 5) - 0.05
    effects[0, 3:], effects[1] = -0.1, -0.2
    tensors = {"effects": effects}
    for name, width in (("heads", 4), ("contributions", 8)):
        for kind in ("", ".shuffled", ".zero_shot"):
            tensors[name + kind] = torch.randn((2, 5, width), generator=generator)
    heads = [[0, 0], [0, 1], [0, 2]]
    parameters = {"layers": [0, 1], "layer": 1, "num_heads": 3, "search": "effect", "heads": heads}
    return write(path, method, FittedTensors(tensors, parameters, {}))  # type: ignore[return-value]


CHOSEN = [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("method", [FunctionVector(), MTV(), STV()], ids=lambda one: type(one).__name__)
def test_random_heads_are_among_those_not_chosen(method: FunctionVector | MTV | STV, tmp_path: Path) -> None:
    own = replace(made(tmp_path / "v.safetensors", method), control="random_heads")
    tensors = own.file.tensors
    sums = [own.intervention(), *(replace(own, draw=draw).intervention() for draw in range(1, 12))]
    assert len({edit.digest for edit in sums}) > 6
    for draw, edit in enumerate(sums):
        heads = random_heads((2, 5), CHOSEN, draw)
        assert len(set(heads)) == 3
        assert not set(heads) & set(CHOSEN)
        if isinstance(edit, VectorEdit):
            want = torch.stack([tensors["contributions"][head] for head in sorted(heads)]).sum(0)
            assert torch.allclose(edit.vectors[Site("residual", 1)], want)
        else:
            assert {(layer, head) for layer, own in edit.heads.items() for head in own} == set(heads)
            assert all(torch.equal(edit.values[i], tensors["heads"][i, list(edit.heads[i])]) for i in edit.heads)


def test_random_heads_are_refused_where_too_few_are_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"as many other heads as were chosen \(6\), and only 4 are left"):
        random_heads((2, 5), [divmod(i, 5) for i in range(6)], 0)
    method = replace(made(tmp_path / "v.safetensors", MTV()), num_heads=10)  # type: ignore[call-arg]
    assert "random_heads" not in [one.control for one in method.controls()]  # type: ignore[attr-defined]


def test_shuffled_answers_and_no_demonstrations_give_the_heads_of_their_own_sources(tmp_path: Path) -> None:
    method = made(tmp_path / "v.safetensors", FunctionVector())
    for control in ("shuffled", "zero_shot"):
        edit = replace(method, control=control).intervention()  # type: ignore[arg-type]
        assert isinstance(edit, VectorEdit)
        own = method.file.tensors[f"contributions.{control}"]
        assert torch.allclose(edit.vectors[Site("residual", 1)], own[0, :3].sum(0))


def test_random_vectors_belong_to_the_file_and_the_draw(tmp_path: Path) -> None:
    method = replace(made(tmp_path / "v.safetensors", FunctionVector()), control="random")
    other = replace(method, fitted=write_other(tmp_path, method))
    digests = {one.intervention().digest for one in (method, replace(method, draw=1), other)}
    directions = [
        torch.nn.functional.normalize(next(iter(one.intervention().vectors.values())), dim=0)  # type: ignore[union-attr]
        for one in (method, other)
    ]
    assert len(digests) == 3
    assert not torch.allclose(*directions)
    assert method.config["draw"] == 0
    assert "draw" not in replace(method, control="none").config


def write_other(folder: Path, method: FunctionVector | MTV | STV) -> str:
    """A second file, whose contributions are twice those of the first one."""
    file, path = method.file, folder / "other.safetensors"
    tensors = {name: 2 * tensor for name, tensor in file.tensors.items()}
    return write(path, method, FittedTensors(tensors, file.parameters, {})).fitted


def test_heads_without_an_effect_above_0_are_never_chosen(tmp_path: Path) -> None:
    method = made(tmp_path / "v.safetensors", FunctionVector())
    with pytest.raises(ConfigError, match="num_heads is 5, but only 3 of 10 heads have an effect above 0"):
        replace(method, num_heads=5).intervention()  # type: ignore[call-arg]
    assert "only 3 of 10 heads" in str(replace(method, num_heads=5).problem()), "the plan says so"  # type: ignore[call-arg]
    assert replace(method, num_heads=3).problem() is None  # type: ignore[call-arg]
    ranked = HeadEffects(method.file.tensors["effects"], "shuffled", 0.897)
    assert ranked.candidates([1, 3, 5, 10]) == [1, 3]
    probable, fewer = ranked.warnings(5)
    assert "probability 0.90 on prompts of effects_on: shuffled before any head is edited" in probable
    assert "num_heads is 5, but only 3 heads have an effect above 0" in fewer
    assert HeadEffects(ranked.effects, "zero_shot", 0.4).warnings(None) == ()
    with pytest.raises(DataError, match=r"so none can be chosen\. Set effects_on: zero_shot"):
        HeadEffects(-ranked.effects.abs(), "shuffled", 0.9).candidates([1])


def test_effects_on_prompts_without_demonstrations(data: FitData, means: dict[str, torch.Tensor]) -> None:
    (one,) = data.choice[:1]
    ranked = head_effects(data, means["few_shot"], [one], "zero_shot")
    token = tiny().option_ids(one.prompt, [one.answers[0]])[0][0]
    edit = HeadEdit({2: (1,)}, {2: means["few_shot"][2, 1:2]})
    base = one.without_demonstrations
    before, after = (float(tiny().open([p]).logits[0].softmax(-1)[token]) for p in (base, steer(base, edit)))
    assert ranked.base_probability == pytest.approx(before, abs=1e-4)
    assert float(ranked.effects[2, 1]) == pytest.approx(after - before, abs=1e-4)


def test_the_order_of_heads_changes_nothing(means: dict[str, torch.Tensor]) -> None:
    from decoding.interventions.head_effects import head_edit

    layers = [0, 1, 2, 3]
    one = head_edit(layers, means["few_shot"], [(2, 1), (0, 3), (2, 0)])
    assert one.digest == head_edit(layers, means["few_shot"], [(0, 3), (2, 0), (2, 1)]).digest


def test_reinforce_depends_on_its_seed_alone_and_is_read_back(data: FitData, means: dict[str, torch.Tensor]) -> None:
    layers = [site.layer for site in head_sites(tiny())]
    first = sampled_masks(data, layers, means["few_shot"], steps=2)
    assert first == sampled_masks(data, layers, means["few_shot"], steps=2)
    assert first != sampled_masks(replace(data, seed=1), layers, means["few_shot"], steps=2)


def test_reinforce_favors_heads_that_lower_the_loss(
    data: FitData, means: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only head (2, 1) helps, and (0, 0) harms."""

    def first_token_logprobs(own: FitData, prompts: list[Prompt], answers: list[str]) -> torch.Tensor:
        edits = [prompt.interventions[0].heads if prompt.interventions else {} for prompt in prompts]  # type: ignore[attr-defined]
        return torch.tensor([float(1 in heads.get(2, ())) - float(0 in heads.get(0, ())) for heads in edits])

    monkeypatch.setattr(FitData, "first_token_logprobs", first_token_logprobs)
    masks = sampled_masks(data, [0, 1, 2, 3], means["few_shot"], steps=60)
    assert sum((2, 1) in mask for mask in masks) >= 9
    assert sum((0, 0) in mask for mask in masks) <= 1


def test_reinforce_keeps_the_sampled_mask_with_the_lowest_loss_of_the_first_token(
    data: FitData, means: dict[str, torch.Tensor]
) -> None:
    """As the released code: not the mask with the most right answers, of which several have equally many."""
    from decoding.interventions.head_effects import head_edit

    small, layers = replace(data, choice=data.choice[:4], seed=1), [0, 1, 2, 3]
    masks = sampled_masks(small, layers, means["few_shot"], steps=2)
    losses = torch.zeros(len(masks))
    for i, mask in enumerate(masks):
        for one in small.choice:
            prompt = steer(one.without_demonstrations, head_edit(layers, means["few_shot"], mask))
            token = tiny().option_ids(prompt, [one.answers[0]])[0][0]
            losses[i] -= tiny().open([prompt]).logits[0].log_softmax(-1)[token] / 4
    fitted = MTV(search="reinforce", steps=2).fit(small)
    chosen = [(int(i), int(head)) for i, head in fitted.tensors["mask"].nonzero().tolist()]
    assert chosen == masks[int(losses.argmin())]
    assert list(fitted.report["loss"].values()) == pytest.approx(losses.tolist(), abs=1e-4)


def test_the_reported_accuracy_of_reinforce_is_that_of_the_mask_that_it_keeps(
    data: FitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[HeadEdit] = []

    def accuracies(own: FitData, edits: list[tuple[HeadEdit]]) -> list[float]:
        measured.extend(edit for (edit,) in edits)
        return [0.5] * len(edits)

    monkeypatch.setattr(FitData, "accuracies", accuracies)
    monkeypatch.setattr(FitData, "reference_accuracies", lambda own: {})
    monkeypatch.setattr(FitData, "shuffle_report", lambda own: {})
    fitted = MTV(search="reinforce", steps=2).fit(replace(data, choice=data.choice[:4], seed=1))
    chosen = {(int(i), int(head)) for i, head in fitted.tensors["mask"].nonzero().tolist()}
    (edit,) = measured
    assert {(layer, head) for layer, heads in edit.heads.items() for head in heads} == chosen
    assert fitted.report["accuracy"] == {f"{len(chosen)} heads": 0.5}


def test_the_mask_of_reinforce_is_the_one_that_acts(data: FitData, tmp_path: Path) -> None:
    small = replace(data, choice=data.choice[:4])
    method = write(tmp_path / "r.safetensors", MTV(), MTV(search="reinforce", steps=1).fit(small))
    assert method.file.parameters["search"] == "reinforce"
    edit = method.intervention()
    assert isinstance(edit, HeadEdit)
    assert sum(map(len, edit.heads.values())) == method.file.parameters["num_heads"]
