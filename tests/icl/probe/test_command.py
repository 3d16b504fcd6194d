"""The command, over a socket."""

import json
import re
import subprocess
import sys

import pytest

from experiments.cli.main import main
from icl.testing.faulty_server import FaultyServer
from icl.testing.vision_server import VisionServer, listen


@pytest.fixture(scope="module")
def address():
    server = listen(FaultyServer(VisionServer().respond).respond)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_correct_server_passes_with_a_table_a_badge_and_a_file(address, tmp_path, capsys):
    path = tmp_path / "probe.json"
    assert main(["doctor", "server", f"{address}/none/v1", "--json", str(path), "--badge"]) == 0
    output = capsys.readouterr().out
    assert "Few-shot prompts are read as sent." in output
    assert "![probe: reads every image](" in output
    stored = json.loads(path.read_text())
    assert (stored["status"], stored["server"]["model"], stored["compared"]) == ("ok", "shapes", "log-probabilities")
    assert {row["status"] for row in stored["rows"]} == {"ok", "note"}
    assert stored["requests"] >= sum(row["requests"] for row in stored["rows"])


def test_a_fault_comes_first_and_can_be_sent_again(address, tmp_path, capsys):
    assert main(["doctor", "server", f"{address}/earlier_dropped/v1", "--curl", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert output.splitlines()[0].startswith("RED")
    assert "image 1, 2, 3 of 4 in turns never changes the answer" in output.replace("\n" + " " * 24, " ")
    assert "Few-shot prompts are not read as sent." in output
    script = (tmp_path / "turns.sh").read_text()
    assert script.startswith("# image 1, 2, 3 of 4")
    assert script.count("curl -s ") == 2


def test_a_server_that_fails_within_a_message_alone_still_reads_turns(address, capsys):
    assert main(["doctor", "server", f"{address}/images_first/v1", "--only", "between,turns"]) == 1
    assert "Put each image into a turn of its own: this works." in " ".join(capsys.readouterr().out.split())


def test_a_fault_of_sampling_leaves_few_shot_prompts_alone(address, capsys):
    assert main(["doctor", "server", f"{address}/stop_ignored/v1", "--only", "sampling,each"]) == 1
    assert "Few-shot prompts are read as sent; the faults above do not touch them." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--only", "eahc"], "no check is named eahc. There are: reads,"),
        (["--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY, which --key-env names, is not set"),
        (["another"], "serves no model 'another', but shapes"),
    ],
)
def test_what_cannot_start_is_a_sentence_with_status_3(address, words, sentence, capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert main(["doctor", "server", f"{address}/none/v1", *words]) == 3
    assert sentence in capsys.readouterr().err


def test_it_runs_without_the_libraries_of_the_toolkit(address):
    """As in a distribution of its own: the folder under another name, with torch, numpy and the toolkit blocked."""
    code = (
        "import sys, pathlib, importlib.util as u\n"
        "for name in ('torch', 'numpy', 'transformers', 'datasets', 'pandas', 'openai', 'icl', 'experiments'):\n"
        "    sys.modules[name] = None\n"
        "folder = pathlib.Path('icl/probe')\n"
        "start, places = folder / '__init__.py', [str(folder)]\n"
        "spec = u.spec_from_file_location('icl_probe', start, submodule_search_locations=places)\n"
        "sys.modules['icl_probe'] = module = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from icl_probe.run import main\n"
        f"sys.exit(main(['{address}/none/v1', '--only', 'each,turns']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 checks" in done.stdout


def test_paths_and_keys_are_checked_before_the_first_request(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ODD_KEY", "bad\nkey")
    for words, sentence in (
        (["--json", str(tmp_path)], "cannot be written|is no file"),
        (["--json", str(tmp_path / "file" / "x.json")], "cannot be written"),
        (["--curl", str(tmp_path / "file")], "cannot be written"),
        (["--only", ","], "no check is named ,"),
        (["--key-env", "ODD_KEY"], "the key in ODD_KEY has characters that no header takes"),
    ):
        assert main(["doctor", "server", "http://127.0.0.1:9/v1", *words]) == 3
        error = capsys.readouterr().err
        assert re.search(sentence, error)
        assert "bad" not in error
