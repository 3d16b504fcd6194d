"""Training on several tasks: which task each episode belongs to."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import Config, load_config
from experiments.tuning.episodes import Episodes, MixedStream
from experiments.tuning.tune import _training_cells, episode_stream, training_cell, tune
from icl.errors import ConfigError, DataError

TASKS = [{"name": "counting", "queries": 5, "pool_size": 8, "seed": 3}, {"name": "operators", "queries": 4, "seed": 4}]


def study(**changes: Any) -> Config:
    tuning = {"task": TASKS, "shots": 1, "batch": 4, "steps": 10, "rank": 2, **changes}
    return load_config(
        {"name": "x", "task": {"name": "counting", "queries": 2, "seed": 9}, "model": {"name": "hf", "path": "tiny"},
         "tune": tuning}
    )  # fmt: skip


def streams(shares: list[float], total: int | None) -> tuple[MixedStream, list[Episodes]]:
    config = study()
    assert config.tune is not None
    spec = config.tune

    def each() -> list[Any]:
        return [episode_stream(config, spec, training_cell(config, replace(spec, task=t), None)) for t in spec.tasks]

    return MixedStream(each(), shares, 0, total), each()


def digests(stream: Episodes, numbers: range) -> list[str]:
    return [str(one.prompt.digest) for number in numbers if (one := stream.episode(number)[0])]


def test_an_unknown_transform_of_a_task_is_reported_with_its_place_when_the_file_is_read() -> None:
    with pytest.raises(ConfigError, match=r"tune\.transforms\[1\]\[0\]: no transform named 'symbolz'.*'symbols'"):
        study(transforms=[[], ["symbolz"]])


def test_an_edit_of_training_images_draws_new_noise_in_each_epoch() -> None:
    config = study(task=TASKS[:1], transforms=[[{"name": "image_edit", "edit": "noise", "where": "query"}]])
    assert config.tune is not None
    [cell] = _training_cells(config, config.tune, None)
    digests_of: dict[str, set[str]] = {}
    for _ in range(2):  # the same noise if the training is repeated
        stream = episode_stream(config, config.tune, cell)
        for number in range(10):
            episode, _why = stream.episode(number)
            assert episode is not None
            [image] = [part.image for part in episode.prompt.parts() if part.image and part.demo is None]
            digests_of.setdefault(episode.prompt.key.query, set()).add(image.digest)
    assert [len(own) for own in digests_of.values()] == [2] * 5


def test_sequential_passes_from_one_task_to_the_next() -> None:
    mixed, (first, second) = streams([1, 3], 40)
    assert digests(mixed, range(40)) == digests(first, range(10)) + digests(second, range(30))


def test_mixed_draws_tasks_by_their_shares_and_keeps_the_order_of_each() -> None:
    mixed, alone = streams([3, 1], None)
    mixed.episode(399)
    assert Counter(task for task, _ in mixed.places)[1] == pytest.approx(100, abs=30)
    for task, stream in enumerate(alone):
        own = [number for number, (which, _) in enumerate(mixed.places[:30]) if which == task]
        assert [digests(mixed, range(n, n + 1))[0] for n in own] == digests(stream, range(len(own)))


def test_an_episode_does_not_depend_on_the_episodes_before_it() -> None:
    mixed, fresh = streams([1, 1], None)[0], streams([1, 1], None)[0]
    mixed.episodes(0)
    assert [one.prompt.digest for one in mixed.episodes(3)] == [one.prompt.digest for one in fresh.episodes(3)]


def test_each_task_has_its_own_transforms_after_those_of_the_file() -> None:
    config = study(transforms=[[], ["symbols"]])
    assert config.tune is not None
    plain, symbols = _training_cells(replace(config, transforms=["flip_labels"]), config.tune, "shuffled")
    assert plain.labels["transforms"] == "flip_labels+answers"
    assert symbols.labels["transforms"] == "flip_labels+symbols+answers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1, 2, 3]}, r"tune: weights has 3 values for 2 tasks\. Give each task one, in order"),
        ({"transforms": [["symbols"]]}, r"tune: transforms has 1 values for 2 tasks\. Give each task one, in order"),
        ({"weights": [1, 0]}, r"tune\.weights\[1\].*above 0"),
        ({"weights": [1, -1]}, r"tune\.weights\[1\].*above 0"),
        ({"task": []}, r"tune\.task: task must not be an empty list"),
        ({"task": [TASKS[0], "operator"]}, r"tune\.task.*no task named 'operator'. Did you mean 'operators'"),
        ({"mix": "random"}, r"tune\.mix.*mixed"),
    ],
)
def test_weights_and_tasks_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_no_image_of_any_task_may_be_a_test_image(tmp_path: Path) -> None:
    test = {"name": "counting", "queries": 2, "seed": 9}
    with pytest.raises(DataError, match=r"2 of 2 queries have an image of tune\.task"):
        tune(study(task=[TASKS[1], test]), tmp_path)
