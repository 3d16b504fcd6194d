from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from lab.bench.large_run import enlarge

STUDY = {
    "name": "t",
    "task": {"name": "binding", "ways": 2, "queries": 6},
    "model": "fake-copy",
    "grid": {"shots": [0, 2]},
}


def test_an_enlarged_run_has_the_samples_of_its_source_under_new_queries(tmp_path):
    from experiments.api import run

    source = run(STUDY, runs=tmp_path, quiet=True)
    before = source.samples()
    assert enlarge(source.path, tmp_path / "large", 5 * len(before)) == 5 * len(before)
    large = load_run(tmp_path / "large").samples()
    assert len(large) == 5 * len(before) == len(large.drop_duplicates(["cell", "query"]))
    assert large["prompt"].nunique() == 5 * before["prompt"].nunique()
    runs = source, load_run(tmp_path / "large")
    means = [view_run(one).scores.groupby("shots")["lenient"].mean().tolist() for one in runs]
    assert means[0] == means[1]
