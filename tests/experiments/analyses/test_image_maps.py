"""Maps of images and their cuts: against plain forward passes of transformers, known answers, and sentences."""

import base64
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from experiments.analyses import image_maps
from experiments.analyses.image_maps import (
    ANSWER,
    GROUPS,
    LAST,
    SIZE,
    Gold,
    Map,
    ReadMap,
    analyze,
    answer_margin,
    attention_weights,
    cut_everywhere,
    cut_prompt,
    marked_patches,
    overlaid,
    read_cuts,
    read_maps,
)
from experiments.analyses.stored_results import read_results
from experiments.cli.main import main
from experiments.report.page import find_section, write_report
from experiments.results.run_view import RunView
from icl import END, Example, Image, Part, Prompt, StreamKey, Turn, Where, spans
from icl.errors import ConfigError, ModelError, PlanError
from icl.models.hf.image_features import vision_arguments
from icl.models.hf.model import HF
from tests.random_models.twins.twin import save_twin

TWINS = {"qwen2_5_vl": (4, 6), "pixtral": (7, 10)}
"""Twins with grids by the size of the image, and the grid of an image of 160 x 112 pixels."""
TINY = {"name": "hf", "path": "tiny", "device": "cpu"}
IMAGE, QUERY = "demo[0].image[0]", "query.image[0]"


def noise(seed: int, size: tuple[int, int] = (160, 112)) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.from_pil(PILImage.fromarray(pixels))


def prompt_of(size: tuple[int, int] = (160, 112)) -> Prompt:
    """A demonstration with its answer, and a query."""
    return Prompt(
        (
            Turn("user", (Part(noise(1, size), IMAGE), Part("What is it?", "demo[0].question"))),
            Turn("assistant", (Part("a cat", "demo[0].answer"),)),
            Turn("user", (Part(noise(2, size), QUERY), Part("What is it?", "query.question"))),
        )
    )


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            path = "tiny" if name == "tiny" else str(save_twin(name, tmp_path_factory.mktemp(name) / name))
            made[name] = HF(path=path, dtype="float32", device="cpu")
        return made[name]

    return get


def plain(model: HF, prompt: Prompt, **arguments: Any) -> Any:
    """One forward pass of the class itself with eager attention."""
    runner = model.engine.runner
    own, before = runner.padded(model.engine.prompt_encoder.read([prompt])), runner.attention
    runner.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return runner.model(
                input_ids=own["tokens"],
                position_ids=own["positions"],
                **vision_arguments(own["images"]),
                **arguments,
            )
    finally:
        runner.model.set_attn_implementation(before)


@contextmanager
def masked(model: HF, cells: Mapping[int, Sequence[tuple[Sequence[int], Sequence[int]]]]) -> Any:
    """Layer -> (tokens, keys) that the attention mask of the layer hides, in plain forward passes."""

    def hide(own: Any, module: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"].clone()
        for tokens, keys in own:
            for token in tokens:
                mask[:, :, token, [key for key in keys if key != token]] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    layers: Any = model.sites.layers
    hooks = [
        layers[layer].self_attn.register_forward_pre_hook(partial(hide, own), with_kwargs=True)
        for layer, own in cells.items()
    ]
    yield
    for hook in hooks:
        hook.remove()


def tokens(model: HF, prompt: Prompt, name: str) -> list[int]:
    ranges = model.span_tokens([prompt], [name])[0][name]
    return [token for begin, end in ranges for token in range(begin, end)]


@pytest.mark.parametrize("name", ["tiny", *TWINS])
def test_the_weights_are_the_attention_that_transformers_returns(name: str, twin: Callable[[str], HF]) -> None:
    model, prompt = twin(name), prompt_of()
    attentions = plain(model, prompt, output_attentions=True).attentions
    weights = attention_weights(model, prompt)
    assert set(weights) == {(LAST, IMAGE), (LAST, QUERY), (ANSWER, IMAGE)}
    for (reader, image), own in weights.items():
        rows = [-1] if reader == LAST else tokens(model, prompt, "demo[0].answer")
        for layer, plain_weights in enumerate(attentions):
            expected = plain_weights[0].mean(0)[rows].mean(0)[tokens(model, prompt, image)]
            np.testing.assert_allclose(own[layer], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", TWINS)
def test_a_cut_is_a_plain_pass_that_masks_these_patches(name: str, twin: Callable[[str], HF]) -> None:
    model, prompt = twin(name), prompt_of()
    patches = {IMAGE: [0, 5, 7], QUERY: [2, 9]}
    keys = {image: [tokens(model, prompt, image)[i] for i in own] for image, own in patches.items()}
    every, last = [key for own in keys.values() for key in own], len(model.token_ids(prompt)) - 1
    answer = {IMAGE: patches[IMAGE]}
    of_last, of_answer = (Map("attention", reader, GROUPS[1]) for reader in (LAST, ANSWER))
    cuts = {
        "all": (
            cut_prompt(model, prompt, patches),
            {layer: [(range(last + 1), every)] for layer in range(2)},
        ),
        "last": (cut_prompt(model, prompt, patches, ReadMap(of_last, 1, [], END)), {1: [([last], every)]}),
        "answer": (
            cut_prompt(model, prompt, answer, ReadMap(of_answer, 0, [])),
            {0: [(tokens(model, prompt, "demo[0].answer"), keys[IMAGE])]},
        ),
    }
    uncut = plain(model, prompt).logits[0, -1]
    for steered, cells in cuts.values():
        with masked(model, cells):
            expected = plain(model, prompt).logits[0, -1]
        assert (expected - uncut).abs().max() > 1e-4
        torch.testing.assert_close(model.open([steered]).logits[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny", *TWINS])
def test_the_lens_is_the_output_layer_on_the_final_norm_of_a_state(name: str, twin: Callable[[str], HF]) -> None:
    model, prompt = twin(name), prompt_of()
    output, whole = plain(model, prompt, output_hidden_states=True), model.engine.runner.model
    norm, last = whole.get_decoder().norm, model.num_layers - 1
    for layer in range(last):
        with torch.no_grad():
            expected = whole.get_output_embeddings()(norm(output.hidden_states[layer + 1][0]))
        for image, own in zip((QUERY, IMAGE), model.image_logits(prompt, layer, [QUERY, IMAGE]), strict=True):
            torch.testing.assert_close(own, expected[tokens(model, prompt, image)], atol=1e-3, rtol=1e-3)
    (own,) = model.image_logits(prompt, last, [QUERY])
    torch.testing.assert_close(own, output.logits[0, tokens(model, prompt, QUERY)], atol=1e-3, rtol=1e-3)


def test_a_patch_is_one_token_of_its_image(twin: Callable[[str], HF]) -> None:
    model, prompt = twin("pixtral"), prompt_of()
    assert tokens(model, prompt, spans.patch(IMAGE, 11)) == [tokens(model, prompt, IMAGE)[11]]
    with pytest.raises(ModelError, match=r"demo\[0\]\.image\[0\] has 70 patches, so there is no '.*patch\[70\]'"):
        tokens(model, prompt, spans.patch(IMAGE, 70))


def test_the_margin_is_the_log_odds_of_an_answer_among_others() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(answer_margin(logits, 1, [2]), torch.tensor([1.0, 0.0]))
    p = logits.softmax(-1)[:, 1]
    assert torch.allclose(answer_margin(logits, 1, []), (p / (1 - p)).log())


def test_a_cut_takes_a_quarter_of_each_image_and_its_control_as_many_others() -> None:
    values = {IMAGE: np.arange(16.0), QUERY: -np.arange(9.0)}
    assert marked_patches(values) == {IMAGE: [12, 13, 14, 15], QUERY: [0, 1]}
    key = StreamKey(0, "q1")
    others = marked_patches(values, key)
    assert others == marked_patches(values, key) != marked_patches(values, StreamKey(1, "q1"))
    assert all(len(others[name]) == len(own) for name, own in marked_patches(values).items())
    assert not any(set(others[name]) & set(own) for name, own in marked_patches(values).items())


@pytest.mark.parametrize("patches", [2, 3, 7, 8])
def test_half_of_an_odd_number_of_patches_leaves_as_many_others(patches: int) -> None:
    values = {IMAGE: np.arange(float(patches))}
    cut, others = (marked_patches(values, key, 0.5)[IMAGE] for key in (None, StreamKey(0, "q1")))
    assert len(cut) == len(others) == patches // 2


def test_an_attention_map_is_of_the_layer_that_attends_most(twin: Callable[[str], HF]) -> None:
    model, prompt = twin("pixtral"), prompt_of()
    weights = attention_weights(model, prompt)
    maps = {one.map: one for one in read_maps(model, [prompt], [Gold({"query": 5}, (5, 6))])}
    assert [one.kind for one in maps] == ["attention"] * 3 + ["logits"]  # the demonstration has no answer to look for
    for own, read in maps.items():
        if own.kind == "attention":
            (image,) = read.values[0]
            sums = weights[own.reader, image].sum(1)
            assert read.layer == sums.argmax()
            assert np.array_equal(read.values[0][image], weights[own.reader, image][read.layer])


def test_a_cut_is_read_from_the_first_token_that_it_changes(twin: Callable[[str], HF]) -> None:
    model, prompt, gold = twin("pixtral"), prompt_of(), Gold({"query": 5}, (5, 6))
    length = len(model.token_ids(prompt))
    first = tokens(model, prompt, QUERY)[0]
    cuts = [
        cut_prompt(model, prompt, {QUERY: [0, 9]}),
        cut_prompt(model, prompt, {QUERY: [0, 9]}, ReadMap(Map("attention", LAST, "query_images"), 1, [], END)),
        cut_everywhere(model, prompt, ("query_images",)),
    ]
    before = model.counters()["prefill_tokens"]
    p = read_cuts(model, prompt, gold, cuts)
    assert model.counters()["prefill_tokens"] - before == length + 2 * (length - first) + 1
    np.testing.assert_allclose(p, [read_cuts(model, one, gold, [])[0] for one in (prompt, *cuts)], atol=1e-5)
    assert len(set(p)) == 4


def test_with_all_patches_cut_nothing_of_an_image_is_left(twin: Callable[[str], HF]) -> None:
    """So the cut is able to say yes: it leaves the answer that a model gives without knowing the image."""
    model, gold = twin("pixtral"), Gold({"query": 5}, (5, 6))
    one = prompt_of()
    other = one.map(lambda part: Part(noise(3), QUERY) if part.name == QUERY else part)
    p = np.array(
        [
            read_cuts(
                model,
                prompt,
                gold,
                [cut_everywhere(model, prompt, (name,)) for name in ("query_images", "demo_images")],
            )
            for prompt in (one, other)
        ]
    )
    assert p[0, 1] == pytest.approx(p[1, 1], abs=1e-6)
    assert abs(p[0, [0, 2]] - p[1, [0, 2]]).min() > 1e-5


def test_layers_reader_and_answer_choose_what_is_mapped(twin: Callable[[str], HF]) -> None:
    model, prompt = twin("pixtral"), prompt_of()
    where = {"demo[0].answer": Where("demo[0].answer")}
    maps = read_maps(model, [prompt], [Gold({"query": 5}, (5, 6), "five", 7)], [0, 1], where)
    chosen = [(own.map.name, own.layer) for own in maps]
    assert chosen == [  # no answer of a demonstration attends to the query, which comes later
        *(("attention, demo[0].answer: demo images", layer) for layer in (0, 1)),
        *(("logits, five: query images", layer) for layer in (0, 1)),
    ]
    weights = attention_weights(model, prompt)
    for own in maps[:2]:
        np.testing.assert_allclose(own.values[0][IMAGE], weights[ANSWER, IMAGE][own.layer], atol=1e-6)
    (logits,) = model.image_logits(prompt, 1, [QUERY])
    assert np.allclose(maps[3].values[0][QUERY], answer_margin(logits, 7, [5, 6]).numpy())


def test_a_word_is_mapped_for_all_images_only_if_one_is_named(twin: Callable[[str], HF]) -> None:
    model, prompt = twin("pixtral"), prompt_of()
    example = Example("q", (), "What is it?", ("dog",), ())
    one: Any = SimpleNamespace(cell=SimpleNamespace(model=model), item=SimpleNamespace(example=example), prompt=prompt)
    own, named = image_maps._gold(one), image_maps._gold(one, "bird")
    cat, dog, bird = (ids[0] for ids in model.option_ids(prompt, ["a cat", "dog", "bird"]))
    assert len({cat, dog, bird}) == 3
    for owner, token, other in ((spans.QUERY, dog, cat), ("demo[0]", cat, dog)):
        assert own.tokens(owner, mapped=True) == own.tokens(owner) == named.tokens(owner) == (token, [other])
        assert named.tokens(owner, mapped=True) == (bird, [cat, dog])


def test_the_overlay_colors_the_patches_of_the_image() -> None:
    uri = overlaid(PILImage.new("RGB", (20, 10)), np.array([[1.0, 0.0], [0.0, -1.0]]))
    image = PILImage.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    assert image.size == (2 * SIZE, SIZE)
    (left, top), (right, bottom) = (10, 10), (2 * SIZE - 10, SIZE - 10)
    blue, gray, orange = image.getpixel((left, top)), image.getpixel((right, top)), image.getpixel((right, bottom))
    assert blue[2] > blue[0] + 50
    assert orange[0] > orange[2] + 50
    assert gray[0] == gray[1] == gray[2]


def test_a_run_gets_a_table_with_cuts_and_its_report_the_maps(
    ran: Callable[..., RunView], twin: Callable[[str], HF], tmp_path: Path
) -> None:
    model = {"name": "hf", "path": twin("pixtral").path, "dtype": "float32", "device": "cpu"}
    view = ran(task={"name": "operators", "queries": 2}, model=model, shots=2, seeds=[0], max_new_tokens=2)
    figure = tmp_path / "maps.svg"
    assert main(["analyze", str(view.path), "image_maps", "--queries", "2", "--as", "svg", "--out", str(figure)]) == 0
    (stored,), _ = read_results(view.path)
    table = stored.table
    assert list(table["cut"]) == ["edges", "all"] * 3 + ["all"] * 2 + ["image"] * 2
    assert list(dict.fromkeys(table["map"])) == [
        *("attention, last token: query images", "attention, last token: demo images"),
        *("attention, own answer: demo images", "logits: query images", "logits: demo images"),
        *("query images", "demo images"),
    ]
    references = table["random"].where(table["cut"] != "image", table["p"])
    assert np.allclose(table["top"] - references, table["effect"])
    assert set(table["n"]) == {2}
    images = table.attrs["images"]
    assert len(images) == 2 * (3 + 2 + 3)
    assert "demo 1: " in images[0]["label"] + images[1]["label"]
    assert figure.read_text().count("data:image/png") == len(images)
    write_report(view)
    page = (view.path / "report.html").read_text()
    assert page.count("<image") == len(images)
    (section,) = (own for own in page.split("<section")[1:] if own.startswith(' id="image-maps"'))
    *_, last, key, dots = (section.rindex("<image"), section.index('class="key"'), section.index("effect on p</text>"))
    assert last < key < dots
    assert figure.read_text().index("edges</text>") > figure.read_text().rindex("<image")
    assert find_section(view, "image-maps").figure is not None


def test_parameters_are_checked_and_stored_with_the_result(
    ran: Callable[..., RunView],
    twin: Callable[[str], HF],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares, marked = list[float](), image_maps.marked_patches

    def spied(values: Any, key: StreamKey | None = None, share: float = image_maps.TOP) -> dict[str, list[int]]:
        patches = marked(values, key, share)
        shares.extend(len(patches[name]) / len(own) for name, own in values.items())
        return patches

    monkeypatch.setattr(image_maps, "marked_patches", spied)
    model = {"name": "hf", "path": twin("pixtral").path, "dtype": "float32", "device": "cpu"}
    view = ran(
        name="chosen", task={"name": "operators", "queries": 1}, model=model, shots=1, seeds=[0], max_new_tokens=2
    )
    words = ["layer=[0,-1]", "reader=query.question", "answer=7", "share=0.5"]
    assert main(["analyze", str(view.path), "image_maps", *words]) == 0
    (stored,), _ = read_results(view.path)
    assert stored.options.parameters == tuple(words)
    assert stored.options.command == shlex.join(["icl", "analyze", "RUN", "image_maps", *words])
    assert set(stored.table["layer"]) == {0, 1, "all"}
    assert shares == pytest.approx([0.5] * len(shares), abs=0.02)
    assert shares
    assert {"attention, query.question: query images", "logits, 7: demo images"} < set(stored.table["map"])
    capsys.readouterr()
    for word, sentence in {
        "layer=2": "layer=2: maps are of layers with attention scores, here 0 to 1.",
        "reader=query.answer": "reader=query.answer: not every prompt has this text. The first one has ",
        "reader=-3": "reader=-3: a number of tokens before the last one is 0 or more.",
        "reader=9999": "reader: a prompt is too short for '9999 tokens before the last'.",
        "answer=true": "analysis 'image_maps', answer: true is neither a number nor a text. Quote the word twice: ",
        "answer=": "analysis 'image_maps', answer: no value. Write one after the sign =, or leave answer out.",
        "share=0.9": "analysis 'image_maps', share: input should be less than or equal to 0.5, not 0.9.",
        "layers=1": "analysis 'image_maps' has no parameter 'layers'. Did you mean 'layer'? It has layer, reader,",
    }.items():
        assert main(["analyze", str(view.path), "image_maps", word]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_stored_image_that_loads_something_is_no_image(ran: Callable[..., RunView]) -> None:
    view = ran(model="fake-copy", shots=2)
    assert main(["analyze", str(view.path), "copying"]) == 0
    (path,) = (view.path / "analyses").iterdir()
    content = json.loads(path.read_text())
    content["attributes"]["images"] = [{"panel": "a", "row": "b", "label": "c", "png": "https://example.org/a.png"}]
    path.write_text(json.dumps(content))
    results, (sentence,) = read_results(view.path)
    assert not results
    assert "png" in sentence


def test_models_and_tasks_without_maps_are_sentences(
    ran: Callable[..., RunView], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PlanError, match=r"reads interventions, which '.*' does not give. Use a run of the model 'hf'"):
        analyze(ran(model="fake-copy", shots=2))
    tiny = ran(name="tiny", task={"name": "operators", "queries": 2}, model=TINY, shots=2, seeds=[0], max_new_tokens=2)
    with pytest.raises(ModelError, match=r"an image is one token of this model, so no token stands for a patch"):
        analyze(tiny)
    monkeypatch.setattr(image_maps, "read_maps", lambda *arguments: [])
    with pytest.raises(ConfigError, match=r"its prompts have no images. Maps need a task with images"):
        analyze(tiny)
    monkeypatch.setattr(HF, "image_token_problem", "this model reads text only. Name texts instead.")
    monkeypatch.setattr(HF, "load", lambda self: pytest.fail("weights were read"))
    with pytest.raises(PlanError, match="reads text only"):
        analyze(tiny)
