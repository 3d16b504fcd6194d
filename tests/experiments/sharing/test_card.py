"""Cards of runs, and what `icl check` finds."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.api import load_run
from experiments.cli.main import main
from experiments.grid.grid import expand
from experiments.results.loaded_run import Run
from experiments.sharing.card import DIGEST, card_digest, card_text, make_card
from experiments.sharing.verify import Recomputed
from experiments.store.store import Store, write_json
from icl.errors import ICLWarning


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: object) -> tuple[int, str]:
        status = main(["check", *map(str, words), "--trust", "--quiet"])
        return status, "".join(capsys.readouterr())

    return call


def change_sample(folder: Path, change: Callable[[dict[str, Any]], None], new_card: bool) -> dict[str, Any]:
    """Edits the first sample of the first cell, and writes the card again as a forger would."""
    digest = load_run(folder).info["cells"][0]
    samples = list(Store(folder).samples(digest))
    change(samples[0])
    Store(folder).replace_samples(digest, samples)
    if new_card:
        write_json(folder / "card.json", make_card(load_run(folder, trust=True)))
    return samples[0]


def change_card(folder: Path, change: Callable[[dict[str, Any]], None], new_digest: bool) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    if new_digest:
        card[DIGEST] = card_digest(card)
    write_json(folder / "card.json", card)


def test_a_card_has_scores_controls_environment_and_digests(made: Path) -> None:
    card, loaded = json.loads((made / "card.json").read_text()), Run(made, trust=True)
    for metric in ("lenient", "macro_f1"):
        rows = [row for row in card["scores"] if row["metric"] == metric]
        frame = loaded.scores(metric)
        for column in ("mean", "low", "high"):
            assert [row[column] for row in rows] == pytest.approx(list(frame[column]), nan_ok=True), column
    assert (card["samples"], len(card["cells"]), card["seeds"]) == (5 * len(loaded.cells()), len(loaded.cells()), [0])
    assert (card["controls"][0]["decoding"], card["controls"][0]["role"]) == ("greedy", "reference")
    assert {"python", "torch", "transformers", "numpy"} <= set(card["environments"][0]["versions"])
    assert card["environments"][0]["samples"] == card["samples"]
    assert {"observe", "launcher"}.isdisjoint(card["config"])
    digests = {cell["model_digest"] for cell in card["cells"].values()}
    assert len(digests) == 1
    text = card_text(card, "samples.parquet")
    assert text.startswith("---\npretty_name: t\n")
    for part in (*digests, card["digest"], "lenient [95 % interval]", "mask\\_only", "configs: [{config_name: samples"):
        assert str(part) in text


def test_the_order_of_samples_and_the_process_that_wrote_them_are_in_no_digest(made: Path, copy: Path) -> None:
    for digest in load_run(copy).info["cells"]:
        samples = [{**sample, "invocation": 7} for sample in Store(copy).samples(digest)]
        Store(copy).replace_samples(digest, samples[::-1])
    cells = [make_card(Run(folder, trust=True))["cells"] for folder in (made, copy)]
    assert cells[0] == cells[1]


def test_an_unchanged_run_agrees(made: Path, verify: Callable[..., tuple[int, str]]) -> None:
    status, text = verify(made / "card.json", "--samples", 8, "--seed", 3)
    assert status == 0, text
    assert "the card and its" in text
    assert "every stored answer has the scores" in text
    assert "computed    8 random samples again (--seed 3)\nagree       8 of 8 prompts, 8 of 8 answers" in text
    assert "In float32, with the versions and the kind of device of the card, every answer agrees" in text


def test_an_edited_card_is_found_whether_or_not_its_digest_was_made_again(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    def better(card: dict[str, Any]) -> None:
        card["scores"][1]["mean"] = 0.99

    change_card(copy, better, new_digest=False)
    status, text = verify(copy, "--samples", 0)
    assert status == 1
    assert "the card was edited: its content has the digest" in text
    change_card(copy, better, new_digest=True)
    status, text = verify(copy, "--samples", 0)
    assert (status, "the card was edited" in text) == (1, False)
    assert "no samples  were computed again, and no stored answer was scored again (--samples 0)" in text
    assert "a score of the card is not that of the samples: scores[1] (" in text
    assert ".mean is 0.99 in the card" in text


def test_scores_of_a_card_that_only_the_cache_of_the_samples_has_are_found(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    scores = set(load_run(copy).samples()["lenient"])
    for path in copy.glob("cells/*/.samples.parquet"):
        table, name = pq.read_table(path), "scores\x1flenient"
        ones = pa.array([1.0] * len(table), table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), ones)
        pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)
    write_json(copy / "card.json", make_card(load_run(copy, trust=True)))
    assert set(load_run(copy).samples()["lenient"]) == {1.0}
    status, text = verify(copy, "--samples", 0)
    assert status == 1
    assert "a score of the card is not that of the samples" in text
    assert set(load_run(copy).samples()["lenient"]) == scores  # the caches are made again from the lines


def test_names_of_arms_that_are_not_those_of_the_config_are_found(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    paths = [path for path in sorted(copy.glob("cells/*/cell.json")) if json.loads(path.read_text())["labels"]["shots"]]
    for path in paths:
        cell = json.loads(path.read_text())
        write_json(path, cell | {"labels": cell["labels"] | {"retriever": "oracle"}})
    write_json(copy / "card.json", make_card(load_run(copy, trust=True)))
    status, text = verify(copy, "--samples", 1)
    assert status == 1
    assert f"{paths[0]} has labels {{" in text
    assert text.count("and the config of the run {") == len(paths)


def test_the_good_direction_of_a_metric_that_is_not_that_of_the_config_is_found(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    run = json.loads((copy / "run.json").read_text())
    run["metrics"]["lenient"]["better"] = "lower"
    write_json(copy / "run.json", run)
    write_json(copy / "card.json", make_card(load_run(copy, trust=True)))
    status, text = verify(copy, "--samples", 1)
    assert status == 1
    assert "run.json has 'lower' as better lenient, and its config 'higher'" in text


def test_an_edited_sample_is_named(copy: Path, verify: Callable[..., tuple[int, str]]) -> None:
    edited = change_sample(copy, lambda sample: sample.update(prompt="another"), new_card=False)
    status, text = verify(copy, "--samples", 0)
    assert status == 1
    assert f"1 sample changed since the card was written: {edited['query']}." in text


def test_a_removed_sample_is_found(copy: Path, verify: Callable[..., tuple[int, str]]) -> None:
    digest = load_run(copy).info["cells"][0]
    Store(copy).replace_samples(digest, list(Store(copy).samples(digest))[1:])
    status, text = verify(copy, "--samples", 0)
    assert (status, "the run has 4 samples, and the card 5" in text) == (1, True)


def test_a_score_that_its_answer_does_not_give_is_found_under_a_new_card(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    def flip(sample: dict[str, Any]) -> None:
        sample["scores"]["lenient"] = 1 - sample["scores"]["lenient"]

    edited = change_sample(copy, flip, new_card=True)
    status, text = verify(copy, "--samples", 1)
    assert (status, "the card and its" in text) == (1, True)
    assert f"query {edited['query']}, seed 0: the stored lenient is {edited['scores']['lenient']}, and" in text


def test_scores_that_differ_are_found_whatever_revision_of_the_rules_a_run_claims(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    info = json.loads((copy / "run.json").read_text())
    del info["metrics"]["lenient"]["revision"]
    (copy / "run.json").write_text(json.dumps(info))
    change_sample(copy, lambda sample: sample["scores"].update(lenient=1 - sample["scores"]["lenient"]), new_card=True)
    status, text = verify(copy, "--samples", 1)
    assert (status, "the stored lenient is" in text) == (1, True)
    assert "scores      of lenient come from a version with other rules, by run.json" in text


def test_an_invented_answer_with_right_scores_and_a_new_card_is_found_by_computing_it_again(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    def invent(sample: dict[str, Any]) -> None:
        sample.pop("unread", None)
        sample["output"] = sample["gold"][0] if sample["scores"]["lenient"] == 0 else "nothing"
        sample["scores"] = dict.fromkeys(sample["scores"], 1.0 - sample["scores"]["lenient"])

    edited = change_sample(copy, invent, new_card=True)
    total = load_run(copy).cells()["finished"].sum()
    status, text = verify(copy, "--samples", total)
    assert status == 1
    assert "every stored answer has the scores" in text
    assert f"agree       {total} of {total} prompts, {total - 1} of {total} answers" in text
    assert f"query {edited['query']}, seed 0: {edited['output']!r} in the run" in text
    assert verify(copy, "--samples", total, "--allow", 1)[0] == 0


def test_removed_samples_are_found_under_a_new_card_unless_it_says_that_the_run_is_unfinished(
    copy: Path, edit: Callable[[Path, str, str], None], verify: Callable[..., tuple[int, str]]
) -> None:
    digest = load_run(copy).info["cells"][0]
    Store(copy).replace_samples(digest, list(Store(copy).samples(digest))[3:])
    write_json(copy / "card.json", make_card(load_run(copy, trust=True)))
    status, text = verify(copy, "--samples", 1)
    assert status == 1
    assert "wrong       task shapes, model ToyModel" in text
    assert "seed 0: 3 of 5 queries are missing." in text
    edit(copy / "run.json", '"state": "finished"', '"state": "interrupted"')
    status, text = verify(copy, "--samples", 0)
    assert (status, "wrong       the state of the card is not that of the samples" in text) == (1, True)
    write_json(copy / "card.json", make_card(load_run(copy, trust=True)))
    status, text = verify(copy, "--samples", 1)
    assert (status, "unfinished  The run is not finished (interrupted)" in text) == (0, True)
    assert "computed    1 random sample again" in text


def test_an_arm_that_was_removed_from_run_and_card_is_missing(
    copy: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    info = Store(copy).read_run() or {}
    shutil.rmtree(copy / "cells" / info["cells"][-1])
    Store(copy).write_run(info | {"cells": info["cells"][:-1], "sizes": info["sizes"][:-1]})
    write_json(copy / "card.json", make_card(load_run(copy, trust=True)))
    status, text = verify(copy, "--samples", 1)
    assert (status, "seed 0: 5 of 5 queries are missing." in text) == (1, True), text


def test_a_sample_marked_as_failed_is_computed_again(copy: Path, verify: Callable[..., tuple[int, str]]) -> None:
    def fail(sample: dict[str, Any]) -> None:
        sample["failed"] = "an error"
        del sample["output"], sample["scores"]

    edited = change_sample(copy, fail, new_card=True)
    total = load_run(copy).cells()[["finished", "failed"]].to_numpy().sum()
    status, text = verify(copy, "--samples", total)
    assert status == 1
    assert f"query {edited['query']}, seed 0: failed (an error) in the run, " in text
    assert f"agree       {total} of {total} prompts, {total - 1} of {total} answers" in text
    assert "not checked" not in text
    assert "failed      1 failed sample was not checked" in verify(copy, "--samples", 0)[1]


@pytest.mark.parametrize("score", ["NaN", '"high"', "null", "5", f"1{'0' * 400}"])
def test_a_damaged_line_is_wrong_under_a_new_card_too(
    copy: Path, verify: Callable[..., tuple[int, str]], score: str
) -> None:
    path = copy / "cells" / load_run(copy).info["cells"][0] / "0.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text(re.sub(r'"lenient": [\d.]+', f'"lenient": {score}', first) + "".join(others))
    with pytest.warns(ICLWarning, match="is not a complete sample of its cell and is ignored"):
        card = make_card(load_run(copy, trust=True))
    assert card["ignored_lines"] == 1
    assert "**1 line of the run is damaged and ignored.**" in card_text(card)
    write_json(copy / "card.json", card)
    with pytest.warns(ICLWarning, match="is not a complete sample"):
        status, text = verify(copy, "--samples", 0)
    assert status == 1
    assert f"wrong       line 1 of {path} is not a complete sample of its cell" in text
    assert "unchanged" not in text


def test_other_data_than_those_of_the_card_are_named(copy: Path, verify: Callable[..., tuple[int, str]]) -> None:
    def other(card: dict[str, Any]) -> None:
        for cell in card["cells"].values():
            cell["data"]["pool"] = "0123456789abcdef"

    change_card(copy, other, new_digest=True)
    status, text = verify(copy, "--samples", 1)
    assert (status, "the demonstrations of task 'shapes' are not those of the card" in text) == (2, True)


def test_cells_that_this_version_cannot_compute_are_named(copy: Path, verify: Callable[..., tuple[int, str]]) -> None:
    run_file = copy / "run.json"
    run_file.write_text(run_file.read_text().replace('"queries": 5', '"queries": 4'))
    status, text = verify(copy, "--samples", 1)
    assert status == 2
    assert "cells of the card cannot be computed here, such as task shapes" in text
    assert "a component has changed" in text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "card.json does not exist. `icl report RUN --as card` writes it."),
        ("{", "card.json is damaged"),
        ("[]", "card.json is damaged (no mapping)"),
        ("{}", "card.json is not a results card"),
        ('{"card": 9}', "has card format 9; this version reads 1"),
        (f'{{"card": "{"9" * 99}"}}', f"has card format '{'9' * 57}…'; this version reads 1"),
        ('{"card": 1, "cells": {"a": 3}}', "cells.a cannot be 3"),
    ],
)
def test_what_is_no_card_gets_a_sentence(
    tmp_path: Path, verify: Callable[..., tuple[int, str]], content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "card.json").write_text(content)
    status, text = verify(tmp_path / "card.json")
    assert (status, sentence in text) == (2, True), text


@pytest.mark.parametrize("name", ["../../x", "/tmp", "x" * 9999, ""])
def test_a_card_whose_cell_is_a_path_reads_nothing_outside_the_run(
    copy: Path, verify: Callable[..., tuple[int, str]], name: str
) -> None:
    def add(card: dict[str, Any]) -> None:
        card["cells"][name] = next(iter(card["cells"].values()))

    change_card(copy, add, new_digest=True)
    status, text = verify(copy, "--samples", 0)
    assert (status, "names a cell '" + name[:50] in text, len(text) < 600) == (2, True, True), text
    change_card(copy, lambda card: card["cells"].update({name: 3}), new_digest=True)
    status, text = verify(copy, "--samples", 0)
    assert (status, "cannot be 3" in text, len(text) < 600) == (2, True, True), text


def test_code_that_a_run_names_by_path_is_not_imported_without_trust(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(made), "--samples", "1", "--quiet"]) == 2
    text = capsys.readouterr().err
    assert "is not imported without --trust" in text
    assert main(["check", str(made), "--samples", "0", "--quiet"]) == 0, "its own metrics are built in"


def test_a_card_without_its_run_asks_for_it(made: Path, tmp_path: Path, verify: Callable[..., tuple[int, str]]) -> None:
    shutil.copy(made / "card.json", tmp_path / "card.json")
    assert "Name the run directory with --run." in verify(tmp_path / "card.json")[1]
    assert verify(tmp_path / "card.json", "--run", made, "--samples", 0)[0] == 0


@pytest.mark.parametrize(
    ("stored", "again", "same_prompt", "same_answer"),
    [
        ({"failed": "e"}, None, True, True),
        ({"failed": "e"}, {"failed": "another"}, True, True),
        ({"failed": "e", "prompt_digest": "p"}, {"output": "a", "prompt_digest": "p"}, True, False),
        ({"failed": "e"}, {"output": "", "prompt_digest": "p"}, True, False),
        ({"prompt_digest": "p"}, {"failed": "e", "prompt_digest": "p"}, True, False),
        ({"output": "a", "prompt_digest": "p"}, None, False, False),
        ({"output": "a"}, {"output": "a", "prompt_digest": "p"}, False, True),
    ],
)
def test_a_failure_agrees_with_a_failure_only(
    made: Path, stored: dict[str, Any], again: dict[str, Any] | None, same_prompt: bool, same_answer: bool
) -> None:
    one = Recomputed(expand(load_run(made, trust=True).load_config()).cells[0], stored, again)
    assert (one.same_prompt, one.same_answer) == (same_prompt, same_answer)


def test_one_sample_is_in_the_singular(made: Path) -> None:
    card = json.loads((made / "card.json").read_text())
    text = card_text({**card, "samples": 1, "environments": [{**card["environments"][0], "samples": 1}]})
    assert f"\n1 sample in {len(card['cells'])} cells, 0 of them failed;" in text
    assert "\n- 1 sample: python" in text


def test_icl_card_writes_both_files(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(made), "--as", "card", "--out", str(tmp_path / "new"), "--trust"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["card.json", "card.md"]
    assert json.loads((tmp_path / "new/card.json").read_text())["digest"] in capsys.readouterr().out
