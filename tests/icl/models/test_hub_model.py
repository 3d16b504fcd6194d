"""Checkpoints of a hub: what is missing, closed, broken or unknown is a sentence before weights are read."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from hub_server import Fault, Hub, reading_hub
from huggingface_hub import constants

from experiments.api import run
from experiments.cli.main import main
from experiments.sharing.card import card_text, make_card
from icl.errors import ICLWarning, ModelError, StoreError
from icl.models.hf.checkpoint import TINY, Checkpoint
from icl.models.hf.model import HF
from icl.models.vllm.model import VLLM
from tests.random_models.texts import save_text

NAME = "me/model"
PROMPT = tiny_models.prompt([], "hello")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with reading_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


def planned(**settings: Any) -> HF:
    """The model after what a plan asks: tokens of a prompt, and whether it can be loaded."""
    model = HF(**{"path": NAME, **settings})
    model.count_tokens(PROMPT)
    model.check_loadable()
    return model


@dataclass(frozen=True)
class Case:
    """A first use that ends with a sentence.

    Attributes:
        name: The case.
        says: Pattern of the sentence, after its key.
        files: Files that are changed, or left out (None), with `__` for a point.
        settings: Parameters of the model.
        faults: What goes wrong on the hub.
        token: The token of the user.
        is_gated: Whether the model is gated.
        loads: Whether the sentence comes when the model is loaded, not in the plan.
    """

    name: str
    says: str
    files: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    token: str = ""
    is_gated: bool = False
    loads: bool = False


def config(**more: Any) -> bytes:
    return json.dumps({"model_type": "own", **more}).encode()


OWN = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
WEIGHTS = "model.safetensors"
CASES = (
    Case("no such id", r"the hub has no model 'me/none', or it is private\. Check the name, or log in \(`hf auth",
         settings={"path": "me/none"}),
    Case("no such id, with a token", r"the hub has no model 'me/none', or it may not be read with your token\. Check",
         settings={"path": "me/none"}, token="hf_other"),
    Case("a wrong token", r"the hub does not accept your token for the model 'me/model'\. Correct HF_", token="hf_x"),
    Case("gated, without a token", r"'me/model' is gated\. Accept its conditions on http://.*/me/model and log in \(",
         is_gated=True),
    Case("gated, with another's token", r"'me/model' is gated\. .*/me/model with the account of your token\.",
         is_gated=True, token="hf_other"),
    Case("a revision that is gone", r"the model 'me/model' has no revision 'v2' on the hub\. Take a branch, tag or "
         r"commit of http://.*/me/model/commits/main as `revision`\.", settings={"revision": "v2"}),
    Case("a commit that is gone", r"has no revision 'a{40}' on the hub", settings={"revision": "a" * 40}),
    Case("too many requests", r"does not give the model 'me/model', because of too many requests \(429\)\. Try again "
         r"in 9 seconds\.", faults=(Fault("/api/models", 429, {"Retry-After": "9"}),)),
    Case("too many requests for long", r"Try again in 999 seconds",
         faults=(Fault("/api/", 429, {"Retry-After": "999"}),)),
    Case("out of order", r"the hub http://\S+ has an error of its own \(503\) at the model",
         faults=(Fault("/api/", 503),)),
    Case("out of order later", r"the hub http://\S+ has an error of its own \(500\) at",
         faults=(Fault("tokenizer", 500),)),
    Case("forbidden", r"your token may not read the model 'me/model'\.", faults=(Fault("/resolve/", 403),)),
    Case("a file that ends early", r"a file of model 'me/model' did not arrive whole, and nothing of it is used",
         faults=(Fault("tokenizer.json", cut=9),)),
    Case("weights that end early", r"a file of model 'me/model' did not arrive whole, and nothing of it is used",
         faults=(Fault(WEIGHTS, cut=0),), loads=True),
    Case("weights of another size", r"model\.safetensors of me/model does not arrive as the hub has it",
         faults=(Fault(WEIGHTS, content=b"short"),), loads=True),
    Case("other weights of this size", r"model\.safetensors of me/model does not arrive as the hub has it",
         files={"model__safetensors": b"x" * 64}, faults=(Fault(WEIGHTS, content=b"y" * 64),), loads=True),
    Case("pickles only", r"me/model has weights as pickles only, such as pytorch_model\.bin\. .* `revision: refs/pr/N`",
         files={"model__safetensors": None, "pytorch_model__bin": b"x"}),
    Case("another format only", r"has no weights that transformers reads \(model\.safetensors\), only m\.gguf\.",
         files={"model__safetensors": None, "m__gguf": b"x"}),
    Case("no weights", r"me/model has no weights that transformers reads\.", files={"model__safetensors": None}),
    Case("a missing shard", r"lacks 1 of 2 files with weights that model\.safetensors\.index\.json names: model-2",
         files={"model__safetensors": None, "model-1__safetensors": b"x", "model__safetensors__index__json": INDEX}),
    Case("a broken index", r"model\.safetensors\.index\.json is not an index of weights",
         files={"model__safetensors": None, "model__safetensors__index__json": b"{}"}),
    Case("no config", r"me/model@[0-9a-f]{40} has no config\.json, so it is not a checkpoint",
         files={"config__json": None}),
    Case("half a config", r"config\.json is not a JSON object", files={"config__json": b'{"model_type'}),
    Case("no tokenizer", r"me/model@[0-9a-f]{40} has no tokenizer \(tokenizer\* or vocab\*\)",
         files={"tokenizer__json": None, "tokenizer_config__json": None}),
    Case("an unknown architecture", r"config\.json of me/model@\w+ has the model_type 'own', which transformers \S+ "
         r"does not know", files={"config__json": config()}),
    Case("no architecture", r"config\.json of me/model@\w+ has no model_type", files={"config__json": b"{}"}),
    Case("code of the repository", r"me/model brings its own Python code, which does not run by default\.",
         files={"config__json": config(auto_map=OWN), "own__py": b"raise SystemExit('ran')"}),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_first_use_ends_with_a_sentence_before_weights_are_read(
    case: Case, hub: Hub, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, source, **case.files)
    hub.models[NAME].is_gated = case.is_gated
    hub.faults += case.faults
    if case.token:
        monkeypatch.setenv("HF_TOKEN", case.token)
    if case.loads:
        model = planned(**case.settings)
        with pytest.raises(ModelError, match=rf"^model\.path: .*{case.says}"):
            model.load()
        folder = model.checkpoint.folder
        assert not (folder / WEIGHTS).exists()
        hub.faults.clear()
        assert model.checkpoint.folder_with_weights == folder
        assert (folder / WEIGHTS).read_bytes() == hub.models[NAME].commits[folder.name][WEIGHTS]
    else:
        with pytest.raises(ModelError, match=rf"^model\.path: .*{case.says}"):
            planned(**case.settings)
        assert not any(request.endswith((".safetensors", ".bin")) for request in hub.requests)


@pytest.mark.parametrize("name", ["an unknown architecture", "code of the repository", "no weights", "forbidden",
                                  "weights of another size"])  # fmt: skip
def test_a_sentence_of_plan_or_run_begins_with_its_place_in_the_file(
    name: str, hub: Hub, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in CASES if case.name == name)
    hub.push(NAME, source, **case.files)
    hub.faults += case.faults
    task = "{name: as_text, of: {name: operators, queries: 2}, form: text}"
    Path("s.yaml").write_text(f"name: s\ntask: {task}\nmodel: {{name: hf, path: {NAME}}}\nshots: 1\n")
    main(("run" if case.loads else "plan", "s.yaml"))
    (line,) = (line for line in "".join(capsys.readouterr()).splitlines() if "model.path" in line)
    assert re.match(rf"(icl run would stop on this machine: )?s\.yaml:3: model\.path: .*{case.says}", line)


def test_a_plan_downloads_no_weights_and_a_run_does(hub: Hub, source: Path) -> None:
    commit = hub.push(NAME, source)
    model = planned()
    assert model.checkpoint.digest == f"{NAME}@{commit}"
    assert not any(WEIGHTS in request for request in hub.requests)
    hub.requests.clear()
    logits = model.open([PROMPT]).logits
    assert [request.split()[0] for request in hub.requests] == ["HEAD", "GET"]
    assert torch.equal(logits, HF(path=str(source)).open([PROMPT]).logits)
    hub.requests.clear()
    HF(path=NAME).load()
    assert hub.requests == [f"GET /api/models/{NAME}"], "only the commit is asked for"


def test_everything_is_of_one_commit_while_the_branch_moves(hub: Hub, source: Path) -> None:
    first = hub.push(NAME, source)
    model = planned()
    second = hub.push(NAME, source, chat_template__jinja=b"another")
    model.load()
    assert model.model_revision == f"{NAME}@{first}"
    assert planned(revision=first).render(PROMPT) == model.render(PROMPT)
    with pytest.raises(ModelError):
        planned(revision=second).render(PROMPT)  # the template drops the text


def test_revisions_are_read_apart(hub: Hub, source: Path, tmp_path: Path) -> None:
    other = save_text("llama", tmp_path / "other", seed=1)
    commits = hub.push(NAME, source), hub.push(NAME, other, revision="refs/pr/1")
    assert HF(path=NAME, revision="refs/pr/1").checkpoint.digest == f"{NAME}@{commits[1]}"
    here, there = (HF(path=NAME, revision=one).open([PROMPT]).logits for one in (commits[0], "refs/pr/1"))
    assert torch.equal(there, HF(path=str(other)).open([PROMPT]).logits)
    assert not torch.equal(here, there)


def test_a_gated_model_is_read_with_the_token(hub: Hub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push(NAME, source)
    hub.models[NAME].is_gated = hub.models[NAME].is_private = True
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    planned().load()


def test_shards_are_downloaded_and_read(hub: Hub, source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "sharded"))
    (folder / WEIGHTS).unlink()
    Checkpoint(str(source)).weights().save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    hub.push(NAME, folder, training__bin=b"not needed")
    assert torch.equal(planned().open([PROMPT]).logits, HF(path=str(source)).open([PROMPT]).logits)
    assert not any("training.bin" in request for request in hub.requests)
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"sharded lacks 1 of \d files with weights that model\.safetensors\.index"):
        planned(path=str(folder))


def test_a_quantized_checkpoint_is_known_in_the_plan(hub: Hub, source: Path) -> None:
    settings = json.loads((source / "config.json").read_bytes())
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 3, "group_size": 32}
    hub.push(NAME, source, config__json=json.dumps(settings).encode())
    model = planned()
    assert model.plan_notes[0].startswith("its checkpoint comes quantized (gptq)")
    with pytest.raises(ModelError, match=r"quantized \(gptq\), but this backend cannot read it: it has 3 bits"):
        _ = model.digest


def test_code_of_a_repository_runs_if_it_is_trusted_by_name(hub: Hub, source: Path) -> None:
    code = (
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n"
        "class Config(LlamaConfig):\n    model_type = 'own'\n\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    settings = json.loads((source / "config.json").read_bytes()) | {"model_type": "own", "auto_map": OWN}
    hub.push(NAME, source, config__json=json.dumps(settings).encode(), own__py=code.encode())
    model = planned(trust_remote_code=True)
    assert torch.equal(model.open([PROMPT]).logits, HF(path=str(source)).open([PROMPT]).logits)
    assert type(model.engine.runner.model).__name__ == "Model"


def test_a_hub_with_too_many_requests_is_asked_again_when_it_says(hub: Hub, source: Path) -> None:
    hub.push(NAME, source)
    hub.faults.append(Fault("/api/models", 429, {"Retry-After": "9"}, times=2))
    planned()
    assert hub.requests.count("wait 9") == 2
    hub.faults.append(Fault("/api/models", 429, {"RateLimit": '"api";r=0;t=999'}))
    with pytest.warns(ICLWarning, match=rf"too many requests \(429\), so the cached commit \w+ of {NAME} is used"):
        planned()


def test_a_damaged_file_of_the_cache_is_downloaded_again(hub: Hub, source: Path) -> None:
    hub.push(NAME, source)
    folder = planned().checkpoint.folder_with_weights
    for name in (WEIGHTS, "config.json"):
        (folder / name).resolve().write_bytes((folder / name).read_bytes()[:50])
    hub.requests.clear()
    model = planned()
    model.load()
    assert [name for name in (WEIGHTS, "config.json") if any(one.endswith(name) for one in hub.requests)] == [
        WEIGHTS,
        "config.json",
    ]


def test_the_cache_is_enough_without_a_connection(hub: Hub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.push(NAME, source)
    planned()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = planned()
    with pytest.raises(ModelError, match=rf"the copy of model '{NAME}' in \S+ is not complete, and"):
        model.load()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    planned().load()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    planned().load()
    assert planned(revision=commit).model_revision == f"{NAME}@{commit}"
    for settings, named in (({"path": "me/none"}, "me/none"), ({"revision": "v2"}, f"{NAME} --revision v2")):
        with pytest.raises(ModelError, match=rf"forbids downloads\. Download .*: `hf download {named}`"):
            planned(**settings)
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    planned().load()
    with pytest.raises(ModelError, match=r"and the hub http://127\.0\.0\.1:9 cannot be reached"):
        planned(path="me/none")


def test_a_vision_language_model_and_an_engine_read_the_same_folder(hub: Hub) -> None:
    commit = hub.push(NAME, TINY)
    prompts = [tiny_models.prompt([1, 2])]
    assert torch.equal(HF(path=NAME).open(prompts).logits, HF(path="tiny").open(prompts).logits)
    engine = VLLM(path=NAME, revision="main")
    assert engine.weights() == str(HF(path=NAME).checkpoint.folder)
    assert "revision" not in engine.arguments()
    assert engine.model_revision == f"{NAME}@{commit}"


def test_a_folder_has_no_revisions(source: Path) -> None:
    for path in (str(source), "tiny"):
        with pytest.raises(ModelError, match=rf"^model\.revision: {path} is on this machine and has no revisions"):
            _ = HF(path=path, revision="main").digest


def test_the_commit_stands_in_run_and_card(hub: Hub, source: Path, tmp_path: Path) -> None:
    commit = hub.push(NAME, source)
    task = {"name": "as_text", "of": {"name": "operators", "queries": 2}, "form": "text"}
    keys = {"name": "t", "model": {"name": "hf", "path": NAME}, "task": task, "shots": 1, "max_new_tokens": 2}
    made = run(keys, runs=tmp_path, quiet=True)
    (cell,) = (json.loads(file.read_text()) for file in (tmp_path / "t").glob("cells/*/cell.json"))
    assert cell["model_revision"] == f"{NAME}@{commit}"
    assert f"{NAME}@{commit}" in card_text(make_card(made))
    hub.push(NAME, source, README__md=b"changed")
    with pytest.raises(StoreError, match=rf"have changed from {NAME}@{commit}, which `revision` of the model can name"):
        run(keys, runs=tmp_path, quiet=True)
    keys["model"] = {"name": "hf", "path": NAME, "revision": commit}
    assert make_card(run(keys, runs=tmp_path, quiet=True))["failed"] == 0
