import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from launched import files, lines, until
from slurm_cluster import Cluster

from experiments.launch.base import Launch
from experiments.launch.slurm import Slurm, minutes, task_environment, task_numbers
from experiments.launch.watch import MAX_IDLE_POLLS, POLL_SECONDS, RunWatcher
from experiments.results.loaded_run import load_run
from icl.errors import ConfigError, PlanError
from icl.registry import build
from tests.experiments.stopping.conftest import ANSWERS, CONFIG, TASK

pytest.importorskip("submitit", reason="the extra slurm is not installed")

Go = Callable[..., Any]
TWO = ("launcher=slurm", "launcher.nodes=2")


def table(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What a successful command printed, without the path of its report."""
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(("report", "nothing to do"))]


@pytest.fixture(scope="module")
def references() -> dict[str, tuple[dict[str, bytes], list[str]]]:
    """Code of the model -> samples and table of the grid by one process."""
    return {}


@pytest.fixture
def whole(icl_here: Go, tmp_path: Path, references: dict[str, Any]) -> Callable[[], Any]:
    """Samples and table of the grid by one process."""

    def make() -> Any:
        code = (tmp_path / "fake.py").read_text()
        if code not in references:
            out = table(icl_here("run", "grid.yaml", "--runs", "whole"))
            references[code] = files(tmp_path / "whole" / "t"), out
        return references[code]

    return make


def test_comparisons_that_stop_when_they_are_decided_end_as_in_one_process(
    slurm: Cluster, icl_here: Go, tmp_path: Path
) -> None:
    for name, text in (("task.py", TASK), ("answers.py", ANSWERS), ("stop.yaml", dedent(CONFIG))):
        (tmp_path / name).write_text(text)
    looks, verdicts = [], []
    for runs, more in (("one", ()), ("jobs", TWO)):
        table(icl_here("run", "stop.yaml", "--quiet", "--runs", runs, *more))
        folder = tmp_path / runs / "t"
        looks.append({path.name: path.read_bytes() for path in folder.rglob("looks/*/*.json")})
        verdicts.append(load_run(folder).looks()[["arm", "end", "look", "p"]].to_dict("records"))
    assert looks[0] == looks[1]
    assert verdicts[0] == verdicts[1]
    assert {one["end"] for one in verdicts[1]} == {"decided", "open"}
    assert lines(tmp_path / "jobs" / "t") < 180, "60 queries in three arms"


WRITES_ITS_GPUS = '''
"""A fake that writes down which GPUs its process may use."""
import os
from pathlib import Path

def answer(request):
    Path(f"gpus-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    return request.demos[-1][0].answer if request.demos else "red"
'''


def test_the_workers_of_one_job_have_one_gpu_each(slurm: Cluster, icl_here: Go, whole: Go, tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text(WRITES_ITS_GPUS)
    one_job = ("launcher=slurm", "launcher.gpus=2", "launcher.workers_per_job=2")
    out = table(icl_here("run", "grid.yaml", "--runs", "shared", *one_job))
    assert sorted(path.read_text() for path in tmp_path.glob("gpus-*")) == ["0", "1"]
    assert (files(tmp_path / "shared" / "t"), out) == whole()
    workers = load_run(tmp_path / "shared" / "t").info["sessions"][0]["workers"]
    assert [worker["state"] for worker in workers] == ["finished"] * 2
    assert len({worker["job"] for worker in workers}) == 1


def test_eight_workers_of_one_job_divide_its_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert [task_environment(rank, 8)["CUDA_VISIBLE_DEVICES"] for rank in range(8)] == list("01234567")
    assert [task_environment(rank, 4)["CUDA_VISIBLE_DEVICES"] for rank in range(4)] == ["0,4", "1,5", "2,6", "3,7"]
    assert task_environment(0, 1) == {}
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert task_environment(2, 8)["OMP_NUM_THREADS"] == "3"
    assert task_numbers({"w1": "7_0", "w2": "7_0", "w3": "7_1"}) == [0, 1, 0]


@pytest.mark.parametrize(
    ("node", "warning"),
    [
        ({"gpus": 2, "workers_per_job": 8}, "8 workers share 2 GPUs, so up to 4 models are loaded on one GPU."),
        ({"gpus": "a100:1", "workers_per_job": 2}, "2 workers share 1 GPU, so up to 2 models are loaded on one GPU."),
        ({"gpus": 8, "workers_per_job": 8, "nodes": 2}, ""),
        ({"workers_per_job": 8}, ""),
    ],
)
def test_more_workers_than_gpus_of_a_job_are_a_warning(node: Mapping[str, Any], warning: str) -> None:
    launcher = build("launcher", {"name": "slurm", **node})
    assert launcher.warning.startswith(warning)
    assert bool(launcher.warning) == bool(warning)
    if warning:
        assert f"Use launcher.workers_per_job={str(node['gpus'])[-1]}" in launcher.warning


def test_processes_of_submitit_are_workers_of_jobs_too(go: Go) -> None:
    reference, _ = go("alone")
    tried, progress = go("grouped", *TWO, "launcher.cluster=local", "launcher.workers_per_job=2")
    assert files(tried.folder) == files(reference.folder)
    assert (tried.missing, progress.notes) == (0, [])
    workers = load_run(tried.folder).info["sessions"][0]["workers"]
    assert len(workers) == 4
    assert len({worker["job"] for worker in workers}) == 2


def test_a_job_that_is_cancelled_in_the_middle_is_reported_and_the_same_command_gives_the_same_table(
    slurm: Cluster, icl_process: Go, icl_here: Go, whole: Go, tmp_path: Path
) -> None:
    process = icl_process("run", "grid.yaml", "--runs", "cancelled", *TWO, slow=0.05)
    folder = tmp_path / "cancelled" / "t"
    until(lambda: lines(folder) >= 20)
    launch = Launch.read(folder)
    assert launch is not None
    job = launch.jobs[launch.workers[1]]
    slurm.command("scancel", job)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"worker 2 (job {job}) died: CANCELLED" in err
    assert f"What it finished is kept. The end of cancelled/t/launch/logs/{job}_0_log.err:\n" in err
    assert "stopped by SIGTERM." in err
    assert 20 <= lines(folder) < 180
    out = table(icl_here("run", "grid.yaml", "--runs", "cancelled", *TWO))
    assert (files(folder), out) == whole()


def test_jobs_are_submitted_watched_followed_again_and_refused_to_others(
    slurm: Cluster, icl_process: Go, icl_here: Go, whole: Go, tmp_path: Path
) -> None:
    arguments = ("run", "grid.yaml", "--runs", "later", *TWO)
    folder = tmp_path / "later" / "t"
    first = icl_here(*arguments, "launcher.wait=false", slow=0.2)  # a process starts before the jobs have ended
    assert first.returncode == 0, first.stderr
    launch = Launch.read(folder)
    assert launch is not None
    jobs = [launch.jobs[worker] for worker in launch.workers]
    assert first.stdout.splitlines() == [
        f"submitted    2 jobs: {', '.join(jobs)}   later/t",
        "`icl show later/t --follow` shows their progress. After they have ended, run the same command again.",
    ]
    other = icl_here("run", "grid.yaml", "--runs", "later")
    assert other.returncode == 2
    assert "later/t is being run by 2 workers of launcher=slurm since " in other.stderr
    assert other.stderr.endswith(
        f"Wait for them (icl show later/t --follow), or end them first (scancel {jobs[0].partition('_')[0]}).\n"
    )
    followed = icl_process(*arguments)
    assert followed.stderr.readline() == f"following 2 workers that were started at {launch.since}.\n"
    assert followed.stderr.readline().startswith("plan         6 cells, 180 samples")
    assert lines(folder) < 180
    followed.send_signal(signal.SIGINT)
    _, err = followed.communicate(timeout=60)
    assert followed.returncode == 130
    assert f"the jobs continue ({jobs[0].partition('_')[0]}): icl show later/t --follow shows their progress" in err
    watching = icl_here("show", "later/t", "--follow")
    assert watching.returncode == 0, watching.stderr
    assert watching.stdout.startswith("complete     180 samples, 0 failed   later/t\n")
    out = table(icl_here(*arguments))
    assert (files(folder), out) == whole()
    sessions = load_run(folder).info["sessions"]
    assert [(s["state"], len(s["workers"])) for s in sessions] == [("finished", 2)], "nothing was computed twice"


def test_a_job_that_is_signaled_requeues_itself(slurm: Cluster, icl_here: Go, tmp_path: Path) -> None:
    """Slurm starts a requeued job after two minutes. Here it is started at once, and ends after the second signal."""
    table(icl_here("run", "grid.yaml", "--runs", "warned", "launcher=slurm", "launcher.wait=false", slow=0.1))
    folder = tmp_path / "warned" / "t"
    until(lambda: lines(folder) >= 20)
    launch = Launch.read(folder)
    assert launch is not None
    (worker,), job = launch.workers, launch.jobs[launch.workers[0]]
    for warning, reason in (("USR2", "time limit"), ("TERM", "preemption")):
        until(lambda: launch.state(worker).get("state") == "running")
        slurm.command("scancel", f"--signal={warning}", job)
        until(lambda: launch.state(worker).get("state") == "waiting")
        until(lambda: "PENDING" in slurm.command("squeue", "-h", "-j", job, "-o", "%T"))
        before = lines(folder)
        assert before < 180, reason
        slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now")
        until(lambda before=before: lines(folder) > before)
    until(lambda: lines(folder) == 180)


def test_a_job_of_two_workers_requeues_once_and_stays_watched(
    slurm: Cluster, icl_process: Go, icl_here: Go, tmp_path: Path
) -> None:
    """Slurm signals both workers, and the first requeues the job for both."""
    one_job = ("launcher=slurm", "launcher.workers_per_job=2")
    table(icl_here("run", "grid.yaml", "--runs", "pair", *one_job, "launcher.wait=false", slow=0.1))
    folder = tmp_path / "pair" / "t"
    watching = icl_process("show", "pair/t", "--follow")
    launch = Launch.read(folder)
    assert launch is not None
    job = launch.jobs[launch.workers[0]]
    until(lambda: all(list((folder / "cells").rglob(f"{one}.jsonl")) for one in launch.workers) and lines(folder) >= 20)
    slurm.command("scancel", "--signal=USR2", job)
    until(lambda: [launch.state(worker).get("state") for worker in launch.workers] == ["waiting"] * 2)
    until(lambda: "PENDING" in slurm.command("squeue", "-h", "-j", job, "-o", "%T"))
    before = lines(folder)
    assert before < 180
    assert RunWatcher(folder).poll().workers.describe() == "0 of 2 workers, 2 waiting"
    time.sleep((MAX_IDLE_POLLS + 1) * POLL_SECONDS)  # a run without workers would have ended the watch
    assert watching.poll() is None
    slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now")
    out, err = watching.communicate(timeout=120)
    assert watching.returncode == 0, err
    assert out.startswith("complete     180 samples, 0 failed   pair/t\n")
    assert slurm.command("scontrol", "show", "job", job).split("Restarts=")[1][0] == "1"
    assert lines(folder) == 180, "nothing was computed twice"


def test_watching_ends_if_jobs_are_canceled_in_the_queue(
    slurm: Cluster, icl_process: Go, icl_here: Go, tmp_path: Path
) -> None:
    later = ("launcher.wait=false", "launcher.args.begin=now+1hour")
    table(icl_here("run", "grid.yaml", "--runs", "pending", *TWO, *later))
    folder = tmp_path / "pending" / "t"
    assert RunWatcher(folder).poll().workers.describe() == "0 of 2 workers, 2 waiting"
    watching = icl_process("show", "pending/t", "--follow")
    launch = Launch.read(folder)
    assert launch is not None
    slurm.command("scancel", launch.jobs[launch.workers[0]].partition("_")[0])
    _, err = watching.communicate(timeout=120)
    assert watching.returncode == 1
    assert "no worker is running. 0/180 samples" in err


def test_a_job_that_slurm_refuses_is_an_error_with_its_message_and_no_job_is_left(
    slurm: Cluster, go: Go, tmp_path: Path
) -> None:
    with pytest.raises(PlanError) as caught:
        go("refused", "launcher=slurm", "launcher.partition=nowhere")
    assert str(caught.value).startswith(
        "launcher=slurm: Slurm rejects the job: sbatch: error: invalid partition specified: nowhere; sbatch: error: "
    )
    folder = tmp_path / "refused" / "t"
    assert Launch.read(folder) is None
    assert load_run(folder).info["sessions"][-1]["state"] == "stopped"
    assert go("refused")[0].missing == 0


def test_a_job_has_the_options_of_the_config(slurm: Cluster, icl_here: Go, tmp_path: Path) -> None:
    more = ("mem=300M", "cpus=2", "time=1:30:00", "args={comment: hello, nice: 7}", "setup=[export MARK=here]")
    more += ("srun=[--quiet]", f"python=env IN_CONTAINER=1 {sys.executable}")
    arguments = [f"launcher.{value}" for value in ("wait=false", "nodes=2", "at_once=1", "partition=first", *more)]
    table(icl_here("run", "grid.yaml", "--runs", "asked", "launcher=slurm", *arguments, slow=0.02))
    launch = Launch.read(tmp_path / "asked" / "t")
    assert launch is not None
    main = launch.jobs[launch.workers[0]].partition("_")[0]
    listing = slurm.command("squeue", "-h", "-j", main, "-O", "Partition,minmemory,MinCpus,TimeLimit,Comment,nice,Name")
    assert listing.split()[:7] == ["first", "300M", "2", "1:30:00", "hello", "7", "icl-t"]
    script = next(launch.logs.glob("*submission.sh")).read_text()
    assert "#SBATCH --array=0-1%1" in script
    assert "#SBATCH --signal=USR2@90" in script
    assert "export MARK=here" in script
    (command,) = (line for line in script.splitlines() if line.startswith("srun "))
    assert " --quiet " in command
    assert f" env IN_CONTAINER=1 {sys.executable} -P -u -m submitit" in command
    slurm.command("scancel", main)


def test_processes_of_submitit_run_a_file_without_a_cluster(go: Go) -> None:
    reference, _ = go("one")
    tried, progress = go("tried", *TWO, "launcher.cluster=local")
    assert files(tried.folder) == files(reference.folder)
    assert (tried.missing, progress.notes) == (0, [])


def test_missing_packages_and_commands_are_reported_before_anything_is_read(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PlanError, match=r"launcher=slurm: there is no sbatch on this machine\. .*: launcher\.workers=2\."
    ):
        go("never", "launcher=slurm")
    monkeypatch.setattr("experiments.launch.slurm.find_spec", lambda name: None)
    with pytest.raises(PlanError) as caught:
        go("never", "launcher=slurm")
    assert str(caught.value).endswith(
        'needs the package submitit, which is not installed: pip install "mm-icl[slurm]".'
    )
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("time", "expected"),
    [(30, 30), ("30", 30), ("90:30", 91), ("2:00:00", 120), ("1-12", 2160), ("1-12:30", 2190), ("0-0:0:30", 1)],
)
def test_time_limits_as_slurm_writes_them(time: int | str, expected: int) -> None:
    assert minutes(time) == expected


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (
            {"time": "two hours"},
            "time: the limit must be a number of minutes, or a time in Slurm's format (2:00:00, 1-12:00)",
        ),
        ({"time": "0:0:0"}, "time: the limit must be at least one minute."),
        ({"time": 1}, "grace: 90 seconds must be less than the time limit."),
        ({"args": {"--array": "0-3"}}, "args: --array is set by the launcher itself."),
        ({"nods": 2}, "launcher 'slurm' has no parameter 'nods'. Did you mean 'nodes'?"),
        ({"nodes": -1}, "nodes: input should be greater than or equal to 1, not -1."),
        ({"array": "perhaps"}, "array: input should be a valid boolean"),
    ],
)
def test_an_invalid_option_is_a_sentence(node: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("launcher", {"name": "slurm", **node})
    assert sentence in str(caught.value)


def test_jobs_run_on_while_the_controller_does_not_answer(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = Launch(tmp_path, "x", {}, ("x-1",), (), jobs={"x-1": "99999"})
    group = Slurm().reattach(launch)
    assert group is not None
    assert group.poll()["x-1"].message == "Slurm does not know it any more"
    monkeypatch.setenv("PATH", str(tmp_path))
    unanswered = Slurm().reattach(launch)
    assert unanswered is not None
    assert unanswered.poll()["x-1"].state == "running"
