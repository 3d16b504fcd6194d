"""Functions that write files or ask a judge are recognized by their source."""

from pathlib import Path

import pytest

from icl.harness.code_scan import side_effect
from icl.harness.task_file import FunctionName


def effect(folder: Path, code: str, **others: str) -> str:
    (folder / "utils.py").write_text(code)
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text)
    return side_effect(FunctionName("utils.f1", folder))


@pytest.mark.parametrize(
    "code",
    [
        "def f1(values):\n    return sum(values)\n",
        "import openai\ndef f1(values):\n    return 1\ndef judge():\n    return openai.ask()\n",
        "def f1(values):\n    return open('names.txt').read()\n",
        "import requests.sub as r\ndef f1(r):\n    return 1\n",
    ],
)
def test_functions_that_only_compute_are_accepted(tmp_path: Path, code: str) -> None:
    assert effect(tmp_path, code) == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import requests\ndef f1(v):\n    return requests.post('u')\n", "asks a judge (utils.py: f1 uses requests)"),
        ("def f1(v):\n    return ask(v)\ndef ask(v):\n    return client.chat(v)\n"
         "try:\n    from openai import OpenAI\n    client = OpenAI()\nexcept ImportError:\n    client = None\n",
         "asks a judge (utils.py: client uses openai)"),
        ("from lmms_eval.llm_judge import get_server\ndef f1(v):\n    return get_server()\n",
         "asks a judge (utils.py: f1 uses lmms_eval.llm_judge)"),
        ("def f1(v):\n    import openai\n    return openai.x\n", "asks a judge (utils.py: f1 uses openai)"),
        ("from other import judge\ndef f1(v):\n    return judge(v)\n", "asks a judge (other.py: judge uses httpx)"),
        ("import other\ndef f1(v):\n    return other.judge(v)\n", "asks a judge (other.py: judge uses httpx)"),
        ("def f1(v, args):\n    return 1\n", "writes files (utils.py: f1 calls lmms-eval's writer of submissions)"),
        ("def f1(v):\n    with open('x', 'w') as f:\n        f.write('')\n", "writes files (utils.py: f1 calls open)"),
        ("import json\ndef f1(v):\n    json.dump(v, x)\n", "writes files (utils.py: f1 calls dump)"),
    ],
)  # fmt: skip
def test_judges_and_writers_are_named_with_their_place(tmp_path: Path, code: str, message: str) -> None:
    other = "import httpx\ndef judge(v):\n    return httpx.post(v)\n"
    assert effect(tmp_path, code, other=other) == message


def test_code_that_cannot_be_read_has_no_finding(tmp_path: Path) -> None:
    assert effect(tmp_path, "def f1(:\n") == ""
    (tmp_path / "utils.py").unlink()
    assert side_effect(FunctionName("utils.f1", tmp_path)) == ""


def test_edited_code_is_scanned_again(tmp_path: Path) -> None:
    assert effect(tmp_path, "def f1(v):\n    return 1\n") == ""
    assert effect(tmp_path, "def f1(v):\n    v.to_csv('x')\n") == "writes files (utils.py: f1 calls to_csv)"
