"""The training of the small model, on a language model of two layers with random weights."""

from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.tuning.objectives import IGNORED
from icl.errors import ModelError
from icl.models.cached_checkpoint import checksum
from icl.models.small import assemble
from icl.models.small.assemble import PLACES, SIDE, TEMPLATE, WIDTH, merged_state
from icl.models.small.folder import LEARNED
from icl.tasks.drawings.table import DrawingRecord, is_held_out
from icl.tasks.generated.wording import NONCE
from lab.small.card import CARD, StoredFigures, stored_results, table
from lab.small.drawings_data import DrawingSet, for_training, most_similar, split
from lab.small.episodes import EpisodeMaker, TrainingTurn
from lab.small.evaluate import Evaluation, made_up, option_scores, swapped
from lab.small.learned import learned_weights
from lab.small.model import ALPHA, RANK, SmallModel
from lab.small.train import BINDING_SHAPES, Recipe, Training

pytest.importorskip("peft", reason="makes the adapter")
NOUNS = ("apple", "pear", "horse", "dog", "hammer", "lamp", "tree", "boat")


class ByteTokenizer:
    """One token for each byte."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(text.encode()))


def small_model() -> SmallModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return SmallModel(LlamaForCausalLM(config), ByteTokenizer(), scale=1.0)


def drawing(number: int, noun: str, style: str = "noto", title: str = "", keywords: tuple[str, ...] = ()):
    return DrawingRecord(f"{style}-{number}", "", style, title or noun, keywords, "", "", noun, "food")


def data() -> DrawingSet:
    drawings = tuple(drawing(8 * i + n, noun) for i, noun in enumerate(NOUNS) for n in range(4))
    by_noun = {noun: list(range(4 * i, 4 * i + 4)) for i, noun in enumerate(NOUNS)}
    features = torch.randn(len(drawings) + 1, PLACES, WIDTH, generator=torch.Generator().manual_seed(1)).half()
    return DrawingSet(drawings, features, by_noun, most_similar(features, range(len(drawings))), by_noun, by_noun)


def maker() -> EpisodeMaker:
    return EpisodeMaker(data().train, data().similar, [one.title for one in data().drawings])


def test_the_loss_of_binding_stands_on_answers_that_the_sequence_determines() -> None:
    noun_of = {i: noun for noun, indices in data().train.items() for i in indices}
    kinds = set()
    for seed in range(60):
        ways, shots = BINDING_SHAPES[seed % len(BINDING_SHAPES)]
        turns = maker().binding(Random(seed), ways, shots)
        assert len(turns) == ways * min(shots, 3) + 1
        names = {(noun_of[turn.image], turn.answer) for turn in turns}
        assert len({noun for noun, _ in names}) == len({name for _, name in names}) == len(names)
        for place, turn in enumerate(turns):
            earlier = {noun_of[before.image] for before in turns[:place]}
            assert turn.counts == (noun_of[turn.image] in earlier or place == len(turns) - 1)
        assert len({turn.image for turn in turns}) == len(turns), "no image occurs twice"
        own = {noun == name for noun, name in names}
        kinds.add("real" if own == {True} else "swapped" if {name for _, name in names} <= set(NOUNS) else "made up")
        assert own != {True, False}
        assert not {name for _, name in names} & set(NONCE), "the tasks' names are for tests"
    assert kinds == {"real", "swapped", "made up"}


def test_similar_drawings_share_a_name_and_groups_do_not_overlap() -> None:
    similar = data().similar
    for seed in range(20):
        ways, shots = BINDING_SHAPES[seed % len(BINDING_SHAPES)]
        turns = maker().binding_of_similar(Random(seed), ways, shots)
        groups: dict[str, set[int]] = {}
        for turn in turns:
            groups.setdefault(turn.answer, set()).add(turn.image)
        assert len(groups) == ways
        assert {len(group) for group in groups.values()} <= {shots, shots + 1}
        own = groups.pop(turns[-1].answer)
        assert own - {turns[-1].image} <= set(similar[turns[-1].image]), "the query's neighbors have its name"
        assert all(not own & group for group in groups.values())


def test_the_answer_to_a_noun_of_similar_drawings_stands_beside_one_of_them() -> None:
    noun_of = {i: noun for noun, indices in data().train.items() for i in indices}
    wrong = 0
    for seed in range(60):
        shots = 2 + seed % 3
        *demos, query = maker().naming_of_similar(Random(seed), shots)
        assert len(demos) == shots
        assert query.counts
        assert not any(turn.counts for turn in demos)
        (near,) = (turn.image for turn in demos if turn.answer == query.answer)
        assert noun_of[near] == noun_of[query.image] or near in data().similar[query.image]
        assert query.image not in {turn.image for turn in demos}
        wrong += query.answer != noun_of[query.image]
    assert wrong > 40, "nearly all nouns contradict the drawing"


def test_stage_d_follows_with_its_own_rate_and_sequences(tmp_path) -> None:
    recipe = Recipe(steps=4, stage_d_steps=8, stage_a_steps=1, singles=2, turns=11, stage_d_rate=0.5)
    training = Training(recipe, small_model(), data(), torch.ones(8, 6, dtype=torch.long), tmp_path)
    kinds, rates = [], []
    for step in range(12):
        training.step = step
        kinds.append(training._sequences()[0])
        rates.append(training._rate())
    assert "similar nouns" not in kinds[:4]
    assert kinds[11] == "similar nouns"
    assert rates[3] < 0.2
    assert rates[4] == 0.5
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[11] < 0.1
    training.step = 0
    training.run()
    assert training.step == 12


def test_the_most_similar_drawings_are_the_nearest_by_cosine() -> None:
    features = data().features
    vectors = features[:-1].float().mean(1)
    vectors -= vectors.mean(0)
    for i, neighbors in data().similar.items():
        cosines = torch.cosine_similarity(vectors[i], vectors, dim=1)
        assert neighbors == [j for j in cosines.argsort(descending=True).tolist() if j != i][: len(neighbors)]


def test_a_channel_that_a_step_does_not_see_changes_nothing() -> None:
    model, features = small_model(), data().features
    sequences = [maker().binding(Random(1), 2, 2)]
    channels = (torch.arange(WIDTH) % 2).float()
    other = features.clone()
    other[..., ::2] = 7.0
    assert torch.equal(
        model.batch(sequences, features, channels).embeddings, model.batch(sequences, other, channels).embeddings
    )
    assert not torch.equal(model.batch(sequences, features).embeddings, model.batch(sequences, other).embeddings)


def test_labels_are_the_answers_and_nothing_else() -> None:
    model = small_model()
    sequences = [maker().binding(Random(1), 2, 2), maker().single(Random(2), "boat")]
    batch = model.batch(sequences, data().features)
    for turns, labels in zip(sequences, batch.labels, strict=True):
        text = bytes(labels[labels != IGNORED].tolist()).decode()
        assert text == "".join(f" {turn.answer}\n" for turn in turns if turn.counts)
    first = sequences[0][0]
    projected = model.project(data().features[[first.image]])[0].bfloat16()
    assert torch.equal(batch.embeddings[0, :PLACES], projected)


def test_the_chat_template_writes_the_sequences_of_training() -> None:
    from jinja2 import Environment

    turns = maker().binding(Random(1), 2, 2)
    messages = [
        message
        for turn in turns
        for message in (
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": turn.question}]},
            {"role": "assistant", "content": turn.answer},
        )
    ]
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)  # as transformers does
    expected = "".join(f"<image>{turn.question}\nAnswer: {turn.answer}\n" for turn in turns)
    assert template.render(messages=messages) == expected
    assert template.render(messages=messages[:-1], add_generation_prompt=True) == expected.removesuffix(
        f" {turns[-1].answer}\n"
    )


def test_a_continued_training_equals_an_uninterrupted_one(tmp_path) -> None:
    text = torch.randint(0, 256, (8, 12), generator=torch.Generator().manual_seed(2))

    def training(out):
        recipe = Recipe(steps=5, stage_d_steps=5, stage_a_steps=3, singles=3, turns=11)
        return Training(recipe, small_model(), data(), text, out)

    whole = training(tmp_path / "whole")
    whole.run()
    part = training(tmp_path / "part")
    part._stage_a()
    for _ in range(6):
        part._train_step()
    part._save()
    again = training(tmp_path / "part")
    again.run()
    expected, got = learned_weights(whole.model), learned_weights(again.model)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert whole.step == again.step == 10


def test_another_recipe_does_not_continue_a_training(tmp_path) -> None:
    text = torch.zeros(2, 4, dtype=torch.long)
    Training(Recipe(steps=1, stage_d_steps=0, stage_a_steps=1, singles=2), small_model(), data(), text, tmp_path).run()
    other = Recipe(steps=2, stage_d_steps=0, stage_a_steps=1, singles=2)
    with pytest.raises(RuntimeError, match="another recipe"):
        Training(other, small_model(), data(), text, tmp_path).run()


def test_training_and_the_assembled_checkpoint_have_the_same_numbers() -> None:
    assert (PLACES, WIDTH, SIDE) == (assemble.PLACES, assemble.WIDTH, assemble.SIDE)
    assert ALPHA / RANK == assemble.LORA_SCALE


def test_merged_weights_are_those_of_peft() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.language_model.get_base_model().state_dict().items()}
    plain = {name.replace(".base_layer", ""): value for name, value in before.items() if "lora" not in name}
    with torch.no_grad():
        for name, value in model.language_model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn_like(value))
    ours = merged_state(plain, learned_weights(model))
    theirs = model.language_model.merge_and_unload().state_dict()
    for name, value in theirs.items():
        if name != "lm_head.weight":
            torch.testing.assert_close(
                ours[name.replace("model.", "model.language_model.", 1)].float(), value.float(), atol=0.02, rtol=0.02
            )


def test_plain_text_drifts_only_with_the_adapter() -> None:
    model = small_model()
    text = torch.randint(0, 256, (2, 12))
    assert float(model.drift(text)) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for name, value in model.language_model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.5)
    assert float(model.drift(text)) > 0.01


def test_no_training_drawing_mentions_a_held_out_noun() -> None:
    nouns = [f"thing{letter}" for letter in "abcdefghijklmnopqrst"]
    hidden = next(noun for noun in nouns if is_held_out(noun))
    trained = [noun for noun in nouns if not is_held_out(noun)]
    drawings = (
        drawing(0, hidden),
        drawing(1, trained[0], title=f"{trained[0]} with two {hidden}s"),
        drawing(2, trained[0], keywords=("x", hidden)),
        drawing(3, trained[0], style="tuxpaint"),
        *(drawing(4 + n, trained[1]) for n in range(6)),
        drawing(20, trained[0]),
    )
    train, held_out, test = split(drawings)
    assert held_out == {hidden: [0]}
    assert train == {trained[0]: [10], trained[1]: [5, 6, 7, 8]}, "GPL images and mentions are left out"
    assert test == {trained[1]: [4, 9]}
    with_others = (*drawings, drawing(30, ""), drawing(31, "", title=f"a {hidden}"))
    assert for_training(with_others, test) == [5, 6, 7, 8, 10, 11], "drawings without a noun too"


def test_options_behind_a_shared_prompt_score_as_whole_sequences() -> None:
    model = small_model().eval().float()
    demos = maker().binding(Random(3), 2, 2)[:-1]
    options = ["a", "longer name", "bo"]
    sequences = [[*without_loss(demos), TrainingTurn(5, "what?", option, True)] for option in options]
    whole = []
    for sequence in sequences:
        logits, targets = model.answer_logits(model.batch([sequence], data().features))
        whole.append(logits.float().log_softmax(-1).gather(1, targets[:, None]).sum())
    batch = model.batch(sequences, data().features)
    torch.testing.assert_close(
        option_scores(model.base, batch.embeddings, batch.labels), torch.stack(whole).detach(), atol=1e-3, rtol=0
    )


def without_loss(turns: list[TrainingTurn]) -> list[TrainingTurn]:
    return [replace(turn, counts=False) for turn in turns]


def test_the_nearest_neighbor_answers_the_episodes_of_the_model() -> None:
    pairs = {noun: indices[:2] for noun, indices in data().train.items()}
    features = data().features.clone()
    for first, second in pairs.values():
        features[second] = features[first]
    similar = Evaluation(small_model().eval(), replace(data(), features=features, held_out=pairs), questions=12)
    assert similar.nearest_neighbor(2, 1) == 12, "two drawings of a noun have the same features"
    assert 0 <= similar.binding(2, 1, made_up) <= 12
    episodes = [similar._episode(2, 1, names, 3) for names in (made_up, swapped)]
    assert episodes[0].query == episodes[1].query
    assert {i for i, _ in episodes[0].images} == {i for i, _ in episodes[1].images}


def test_figures_that_are_stored_are_not_computed_again(tmp_path) -> None:
    first = StoredFigures.open(tmp_path / "figures.json", 40, "a")
    first.add("naming", lambda: 30)
    again = StoredFigures.open(tmp_path / "figures.json", 40, "a")
    again.add("naming", lambda: pytest.fail("it is stored"))
    again.add("perplexity", lambda: 9.5)
    assert table({"0": again}).startswith("|  | seed 0, n 40 | goal |")
    assert table({"0": again}).splitlines()[2:] == ["| naming | .750 (.598-.858) |  |", "| perplexity | 9.50 |  |"]
    for questions, weights in ((41, "a"), (40, "b")):
        assert StoredFigures.open(tmp_path / "figures.json", questions, weights).values == {}
    with pytest.raises(ModelError, match="has no figures"):
        table({})


def test_the_card_has_the_table_of_the_stored_figures() -> None:
    assert table(stored_results()) in CARD.read_text(encoding="utf-8")


def test_the_figures_of_the_first_seed_are_those_of_the_shipped_weights() -> None:
    assert stored_results()["0"].weights == checksum(LEARNED)
