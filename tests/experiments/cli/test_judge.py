import json
import threading
from types import SimpleNamespace

import pytest
from endpoint_server import Server
from PIL import Image as PILImage
from unread_run import labels_of, write_unread_run

from experiments.cli.label import _example
from experiments.cli.main import main
from experiments.report.sections.scores import scores_section
from experiments.results.labeling import Output, make_queue
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.generation import answer_prompts
from experiments.store.labels import LABELS, append_labels, read_labels
from icl import Part, Prompt, Turn, canonical_digest
from icl.errors import StoreError
from icl.models.hf.model import HF

JUDGE = '''
import re
from dataclasses import dataclass
from icl.models.fake import FakeModel


@dataclass(frozen=True, kw_only=True)
class Judge(FakeModel):
    """Reads "shows 7", and refuses what is said of image 1."""

    constant: str = ""

    def answer_to(self, request):
        lines = dict(line.split(": ", 1) for line in request.prompt.text.splitlines() if ": " in line)
        answer = lines.get("Answer to check", "")
        number = re.search(r"shows (\\d+)", answer)
        said = number[1] if number else answer
        is_right = said in lines["Accepted answers"].split(" / ") and "Image 1" not in answer
        return self.constant or ("yes" if is_right else "no")
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_unread_run(tmp_path_factory.mktemp("unread") / "run", queries=80)


@pytest.fixture
def judge(source, tmp_path, monkeypatch):
    """`judge(constant="")`: asks a judge about a copy of the run, and returns the run and the status."""
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "judge.py").write_text(JUDGE)
    folder = tmp_path / "run"
    folder.mkdir()
    for path in source.path.iterdir():
        (folder / path.name).symlink_to(path)

    def ask(constant=""):
        node = json.dumps({"name": f"{tmp_path / 'judge.py'}:Judge", "constant": constant})
        return folder, main(["label", str(folder), "--judge", node])

    return ask


def test_a_judge_says_of_each_unread_output_whether_it_is_right_and_labels_measure_its_error(judge, source, capsys):
    queue = make_queue(source.lazy_samples(), "lenient")
    unread = [one for one in queue.first(None) if one.is_unread]
    truth = {label.key: label.right for label in labels_of(unread)}
    run, status = judge()
    assert status == 0
    assert "No person has labeled" in capsys.readouterr().out
    judged = read_labels(run).judged
    assert judged == {one.key: truth[one.key] and "Image 1" not in one.text for one in unread}
    append_labels(run, labels_of(unread[:30]))
    size = (run / LABELS).stat().st_size
    judge()
    assert (run / LABELS).stat().st_size == size  # equal verdicts are stored once
    right = [one for one in unread[:30] if truth[one.key]]
    refused = sum("Image 1" in one.text for one in right)
    assert f"refuses {refused} of {len(right)} right ones and accepts 0 of {30 - len(right)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("constant", "reason"), [("yes", "of 40 empty answers right"), ("no", "only 0 of 40 accepted answers right")]
)
def test_a_judge_that_fails_its_controls_is_refused_and_stores_nothing(judge, capsys, constant, reason):
    run, status = judge(constant)
    assert status == 2
    assert reason in capsys.readouterr().err
    assert not (run / LABELS).exists()


@pytest.fixture
def served(judge, tmp_path):
    """`served(answer)`: asks a judge behind a real endpoint, whose requests are answered by `answer(prompt)`."""
    server = Server()

    def ask(answer):
        def reply(number, body):
            content = body["messages"][-1]["content"]
            return answer(content if isinstance(content, str) else "".join(part.get("text", "") for part in content))

        server.behavior = reply
        node = {"name": "remote", "url": server.url, "model": "served", "probe": False}
        return tmp_path / "run", main(["label", str(tmp_path / "run"), "--judge", json.dumps(node)])

    yield ask
    server.stop()


def test_the_shipped_model_behind_a_server_is_refused_as_a_judge(served, capsys):
    model, lock = HF(path="tiny", device="cpu"), threading.Lock()
    model.load()

    def answer(text):
        answers = []
        with lock:
            prompt = Prompt((Turn("user", (Part(text, "query.question"),)),))
            answer_prompts(model, [prompt], 3, lambda _, answer: answers.append(answer.text))
        return answers[0] or " "

    run, status = served(answer)
    error = capsys.readouterr().err
    assert status == 2
    assert "served cannot judge: it calls" in error
    assert not (run / LABELS).exists()


def test_a_bad_judge_behind_a_server_is_measured_by_people_and_makes_no_interval_narrower(served, source, capsys):
    outputs = [one for one in make_queue(source.lazy_samples(), "lenient").first(None) if one.is_unread]

    def answer(text):
        lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        answer = lines.get("Answer to check", "")
        is_coin = "shows" in answer and int(canonical_digest(answer)[:8], 16) % 2
        return "yes" if is_coin or answer in lines["Accepted answers"].split(" / ") else "no"

    def gain():
        (one,) = view_run(load_run(run)).comparisons["ICL gain"]
        return one

    run, status = served(answer)
    assert status == 0
    assert f"{len(outputs)} of {len(outputs)} unread outputs judged by served" in capsys.readouterr().out
    assert gain().verdict == "undecided"  # a judge alone settles nothing
    append_labels(run, labels_of(make_queue(source.lazy_samples(), "lenient").first(40), look=40))
    judged, sentences = gain(), " ".join(scores_section(view_run(load_run(run))).notes)
    truth = {label.key: label.right for label in labels_of(outputs)}
    right, wrong = (
        [one for one in outputs if one.key in read_labels(run).people and truth[one.key] == of] for of in (True, False)
    )
    refused = sum(not read_labels(run).judged[one.key] for one in right)
    accepted = sum(read_labels(run).judged[one.key] for one in wrong)
    assert (
        f"served judged unread outputs. On {len(right) + len(wrong)} labeled outputs it refuses {refused} of "
        f"{len(right)} right ones and accepts {accepted} of {len(wrong)} wrong ones: share " in sentences
    )
    lines = (run / LABELS).read_text().splitlines(keepends=True)
    (run / LABELS).write_text("".join(line for line in lines if "judge" not in json.loads(line)))
    alone = gain()
    assert judged.result.high - judged.result.low > 0.95 * (alone.result.high - alone.result.low)
    assert judged.result.low < 0 < judged.result.high


def test_a_run_that_is_read_whole_has_nothing_to_judge(tmp_path, capsys):
    run = write_unread_run(tmp_path / "run", queries=20, prose=0)
    assert main(["label", str(run.path), "--judge", "tiny"]) == 2
    assert "nothing to judge" in capsys.readouterr().err


def test_no_judge_gets_an_image_that_is_a_link(tmp_path):
    (tmp_path / "images").mkdir()
    PILImage.new("RGB", (4, 4)).save(tmp_path / "private.png")
    output = Output("k", "q1", "", ("a",), (), (), "", 0.0, True)
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(StoreError, match=r"an image of query 'q1', or has a link in its place\. Use a copy"):
        _example(output, SimpleNamespace(images=True), tmp_path)
    assert _example(output, SimpleNamespace(images=False), tmp_path).images == ()
    (tmp_path / "private.png").replace(tmp_path / "images" / "a.png")
    assert len(_example(output, SimpleNamespace(images=True), tmp_path).images) == 1
