"""`icl report`, `icl compare`, `icl show` on a real run of fakes."""

import re
from pathlib import Path

import pytest

from experiments.api import run
from experiments.cli.main import main
from experiments.report.sample_detail import parse_settings
from icl.errors import ConfigError


@pytest.fixture(scope="module")
def made(mapping, tmp_path_factory):
    """A folder with a run, computed once for all tests, and the run."""
    folder = tmp_path_factory.mktemp("rehearsal")
    grid = {"shots": [0, 2, 4], "model": ["fake-copy", "fake-gold"]}
    keys = {k: v for k, v in mapping(seeds=[0, 1]).items() if k not in ("shots", "model")}
    keys |= {"model": "fake-copy", "grid": grid, "compare": {"to": {"model": "fake-copy"}, "metric": "lenient"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run(keys, quiet=True)


@pytest.fixture
def rehearsal(made, monkeypatch):
    """The run, in the working directory of its folder."""
    monkeypatch.chdir(made[0])
    monkeypatch.setenv("COLUMNS", "100")
    return made[1]


def test_report_writes_the_page_its_tables_and_figures(rehearsal, capsys):
    assert main(["report", str(rehearsal.path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"report  .*report\.html \(\d+\.\d MB\)", out)
    assert (rehearsal.path / "report.html").stat().st_size > 10_000
    assert "tables/differences.csv" in out
    assert "figures/scores.svg" in out


def test_several_runs_have_one_report(mapping, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, retriever in (("a", "random"), ("b", "balanced")):
        run(mapping(name=name, retriever=retriever, grid={"shots": [0, 2]}), quiet=True)
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.json*")}
    assert main(["report", "runs/a", "runs/b"]) == 0
    out = capsys.readouterr().out
    assert "merged  merged 18 samples in 3 cells" in out
    assert "report  runs/a+b/report.html" in out
    page = Path("runs/a+b/report.html").read_text()
    assert ">random</th>" in page
    assert ">balanced</th>" in page
    assert all(path.read_bytes() == content for path, content in before.items())
    assert main(["report", "runs/a", "runs/b", "--out", "runs/both"]) == 0
    assert Path("runs/both/report.html").is_file()
    assert main(["report", "runs/a", "--out", "runs/both"]) == 2
    assert "--out is the folder of several runs that are merged" in capsys.readouterr().err


def test_compare_stands_every_arm_against_its_reference(rehearsal, capsys, tmp_path):
    assert main(["compare", str(rehearsal.path), "--as", "csv", "--out", str(tmp_path / "out.csv")]) == 0
    assert main(["compare", str(rehearsal.path)]) == 0
    out = capsys.readouterr().out
    assert "fake-gold against fake-copy: lenient accuracy" in out
    assert re.search(r"exact McNemar, \d independent units; .*Holm over 3 comparisons", " ".join(out.split()))
    assert (tmp_path / "out.csv").read_text().count("\n") == 4


def test_a_file_that_cannot_be_written_is_reported(written, tmp_path, capsys):
    run = written()
    for words in (["compare", str(run.path)], ["analyze", str(run.path), "shot_curve"]):
        assert main([*words, "--as", "csv", "--out", str(tmp_path / "no" / "out.csv")]) == 2
        assert "out.csv cannot be written: " in capsys.readouterr().err
    (run.path / "report.html").unlink(missing_ok=True)
    (run.path / "report.html").mkdir()
    assert main(["report", str(run.path)]) == 2
    assert "report.html cannot be written: Is a directory." in capsys.readouterr().err


def test_compare_takes_another_reference_and_family(rehearsal, capsys):
    assert main(["compare", str(rehearsal.path), "--to", "shots=0", "--by", "model", "--metric", "strict"]) == 0
    out = capsys.readouterr().out
    assert "against 0 shots: strict accuracy" in out
    assert "Holm over 2 comparisons" in " ".join(out.split())
    assert main(["compare", str(rehearsal.path), "--to", "baseline=vote"]) == 0
    assert "against vote" in capsys.readouterr().out


def test_the_vote_stands_beside_scores_of_options(mapping, toy, tmp_path, capsys):
    metrics = ["option", "lenient"]
    made = run(
        mapping(model=toy, answer_mode="options", metrics=metrics, grid={"shots": [0, 3]}), runs=tmp_path, quiet=True
    )
    for metric in metrics:
        assert main(["compare", str(made.path), "--to", "baseline=vote", "--metric", metric]) == 0
        assert f"against vote: {metric} accuracy" in capsys.readouterr().out
    assert main(["analyze", str(made.path), "vote", "--metric", "option"]) == 0
    assert main(["compare", str(made.path), "--to", "baseline=votes"]) == 2
    assert "There are vote, weighted_vote, last_copy, nearest_copy." in capsys.readouterr().err


def test_compare_corrects_as_the_config_says(mapping, tmp_path, capsys):
    keys = {k: v for k, v in mapping(seeds=[0, 1]).items() if k not in ("shots", "model")}
    compare = {"to": {"model": "fake-copy"}, "correction": "none"}
    grid = {"shots": [0, 2], "model": ["fake-copy", "fake-gold"]}
    made = run({**keys, "grid": grid, "compare": compare}, runs=tmp_path, quiet=True)
    assert main(["compare", str(made.path)]) == 0
    assert "Holm" not in capsys.readouterr().out
    assert main(["compare", str(made.path), "--correct", "holm"]) == 0
    assert "Holm over 2 comparisons" in " ".join(capsys.readouterr().out.split())


def test_show_prints_prompt_demonstrations_answer_and_other_arms(rehearsal, capsys):
    assert main(["show", str(rehearsal.path), "sample", "q-0003", "--arm", "model=fake-gold", "--arm", "shots=2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("q-0003  2 shots, fake-gold")
    assert len(set(re.findall(r"\[([0-9a-f]{8})\]", out))) == 3
    name, pattern = re.search(r"^\[([0-9a-f]{8})\] is (\S*images/[0-9a-f]{8}\*\.png)$", out, re.MULTILINE).groups()
    assert [path.name[:8] for path in Path().glob(pattern)] == [name]
    assert "similarity" not in out  # of random demonstrations
    assert "demonstrations, in the order of the prompt" in out
    assert re.search(r"gold +\w+", out)
    assert "the same query under the other arms" in out


def test_show_without_a_query_shows_one_that_the_arm_gets_wrong_and_names_others(rehearsal, capsys):
    frame = rehearsal.samples()
    arm = frame[(frame["model"] == "fake-copy") & (frame["shots"] == 4) & (frame["seed"] == 0)]
    wrong = list(arm[arm["lenient"] != 1]["query"])
    assert 0 < len(wrong) < len(arm)
    assert main(["show", str(rehearsal.path), "sample"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{wrong[0]}  4 shots, fake-copy, ")
    assert out.endswith(f"6 queries, such as q-0000, q-0001, q-0002: icl show {rehearsal.path} sample QUERY\n")


def test_show_finds_a_query_by_its_images_digest(rehearsal, capsys):
    frame = rehearsal.samples()
    row = frame[(frame["query"] == "q-0002") & (frame["shots"] == 2)].iloc[0]
    digest = next(d for d, owner in zip(row["images"], row["image_of"], strict=True) if owner < 0)
    assert main(["show", str(rehearsal.path), "sample", digest[:8]]) == 0
    assert capsys.readouterr().out.startswith("q-0002  ")
    assert main(["show", str(rehearsal.path), "sample", "0" * 12]) == 2
    assert "no query '000000000000'" in capsys.readouterr().err


def test_similarities_are_shown_of_a_retriever_that_has_them(mapping, tmp_path, capsys):
    node = mapping(retriever={"name": "knn", "embedder": "histogram"})
    made = run(node, runs=tmp_path, quiet=True)
    assert main(["show", str(made.path), "sample", "q-0003"]) == 0
    assert re.search(r"p-000\d  similarity [01]\.\d{3}$", capsys.readouterr().out, re.MULTILINE)


def test_images_that_begin_alike_are_called_by_more_letters():
    from experiments.report.sample_detail import short_digests

    one, other = "ab" * 32, "abababababcd" + "0" * 52
    assert short_digests([one, other, one]) == {one: one[:11], other: other[:11]}
    assert short_digests([]) == {}


def test_steps_are_shown_where_they_were_recorded(rehearsal, written, capsys):
    assert main(["show", str(written(queries=2).path), "sample", "shapes-0001", "--steps"]) == 0
    out = capsys.readouterr().out
    table = out[out.index("step  divergence") :].splitlines()
    assert [line.split() for line in table[1:4]] == [["0", "0.1"], ["1", "0.4"], ["2", "0.2"]]
    assert main(["show", str(rehearsal.path), "sample", "q-0003", "--steps"]) == 0
    assert "no steps were recorded for this answer" in capsys.readouterr().out


def test_show_puts_the_branches_of_each_step_side_by_side(mapping, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    keys = {k: v for k, v in mapping(model=toy).items() if k != "decoding"}
    made = run({**keys, "top_logprobs": 3, "grid": {"decoding": ["greedy", "vcd"]}}, runs=tmp_path, quiet=True)
    assert main(["show", str(made.path), "sample", "q-0003", "--arm", "decoding=vcd"]) == 0
    out = capsys.readouterr().out
    sample = next(
        row
        for row in made.samples().to_dict("records")
        if row["query"] == "q-0003" and row["steps"].get("js_divergence")
    )
    assert out.count("reference ×2.00          branch 1 ×−1.00          combined") == len(sample["steps"]["chosen"])
    assert f"step 0  {sample['output'].split()[0] if sample['output'] else '(end)'}  " in out
    assert main(["show", str(made.path), "sample", "q-0003", "--arm", "decoding=greedy"]) == 0
    assert "branch 1" not in capsys.readouterr().out


def test_show_finds_a_query_by_its_beginning_only_if_it_is_one(rehearsal, capsys):
    assert main(["show", str(rehearsal.path), "sample", "q-000"]) == 2
    assert "is the prefix of 6 query IDs: q-0000, q-0001" in capsys.readouterr().err
    assert main(["show", str(rehearsal.path), "sample", "p-0001"]) == 2
    assert "no query 'p-0001'. Did you mean 'q-0001'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "RUN", "--to", "modl=fake-copy"], "no axis 'modl'. Did you mean 'model'?"),
        (["compare", "RUN", "--to", "model"], "'model' is not of the form axis=value"),
        (["compare", "RUN", "--correct", "sidak"], "--correct is holm or none, not 'sidak'"),
        (
            ["show", "RUN", "--arm", "shots=2"],
            "--arm: 'answer' has no rows of arms. Ask for scores, differences or sample.",
        ),
        (["show", "RUN", "sample", "q-0001", "--arm", "model=fake"], "no arm has model 'fake'. Did you mean 'fake-"),
        (["show", "RUN", "sample", "q-0001", "--seed", "9"], "no sample with seed 9"),
        (["report", "RUN", "--metric", "leniant"], "no score 'leniant'. Did you mean 'lenient'?"),
        (["report", "nowhere"], "not a run directory"),
    ],
)
def test_a_mistake_is_one_sentence(rehearsal, capsys, words, sentence):
    assert main([str(rehearsal.path) if word == "RUN" else word for word in words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_failed_samples_are_listed_with_their_reasons(tmp_path, mapping, shapes, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    task = {"name": shapes, "broken": str(tmp_path / "broken.png")}
    made = run({**mapping(), "task": task}, quiet=True)
    assert main(["show", str(made.path), "failed"]) == 0
    assert re.search(r"q-\d+  seed 0.*\n.*broken\.png", capsys.readouterr().out)


def test_hostile_output_does_not_steer_the_terminal(written, capsys):
    made = written(queries=2, hostile="\x1b[2J\x07[bold]")
    assert main(["show", str(made.path), "sample", "shapes-0001"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "�[2J�[bold]" in out


def test_one_word_may_name_several_axes_and_commas_of_a_label_are_none():
    words = ["shots=4,retriever=knn", "decoding=vcd, temperature=0.7", "composer=blocks(order=qap, first=text), seed=1"]
    assert parse_settings(words, "--arm") == {
        "shots": "4",
        "retriever": "knn",
        "decoding": "vcd, temperature=0.7",
        "composer": "blocks(order=qap, first=text), seed=1",
    }
    with pytest.raises(ConfigError, match="'vcd' is not of the form axis=value"):
        parse_settings(["vcd"], "--arm")


def test_other_arms_are_named_by_their_differences_if_their_labels_are_long(mapping, tmp_path, monkeypatch, capsys):
    nodes = [{"name": "blocks", "instruction": "long", "instruction_at": at} for at in ("within", "tail")]
    keys = {k: v for k, v in mapping().items() if k not in ("shots", "composer")}
    done = run({**keys, "grid": {"shots": [0, 2], "composer": nodes}}, runs=tmp_path, quiet=True)
    words = ["show", str(done.path), "sample", "q-0001", "--arm", "composer=blocks(instruction_at=within)"]
    outputs = {}
    for width in (70, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(words) == 0
        out = capsys.readouterr().out.partition("the same query under the other arms")[2]
        outputs[width] = [line.split("  ")[1:] for line in out.splitlines() if "blocks(" in line or "shots 0" in line]
    labels = [" ".join(words).split() for words in outputs[70]]
    assert [label[:2] for label in labels] == [
        ["shots", "0"],
        ["shots", "0,"],
        ["composer", "blocks(instruction_at=tail)"],
    ]
    assert all("shots, blocks(" in " ".join(words) for words in outputs[200])
