"""Each check judges the facts about a machine. Machines with and without GPUs are made up here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.cli import doctor as facts
from experiments.cli.doctor import GPU, Folder, Machine, MachineFinding, PackageVersion, findings, parse_gpus
from experiments.cli.main import main

GIB = 2**30
H100 = GPU("NVIDIA H100", 80 * GIB, 79 * GIB, (9, 0))
V100 = GPU("Tesla V100", 32 * GIB, 31 * GIB, (7, 0))
PACKAGES = (
    PackageVersion("torch", "2.13.0", ">=2.6"),
    PackageVersion("vllm", "0.33.0", ">=0.32,<0.34", "vllm"),
    PackageVersion("flash-attn", "2.8.3"),
)
CPU = Machine(
    python="3.11.7", packages=PACKAGES, device_files=False, gpus=(), driver=None, visible=None, torch_cuda=None,
    torch_hip=None, torch_archs=(), memory=16 * GIB, quantization={"nf4": ""},
    folders=(Folder("temporary files", "/tmp", "", 50 * GIB),),
)  # fmt: skip
CUDA = replace(
    CPU, device_files=True, gpus=(H100,), driver="580.65.06", torch_cuda="13.0", torch_archs=("sm_80", "sm_90")
)


def with_package(name: str, installed: str | None, required: str = "", extra: str | None = None) -> Machine:
    return replace(CPU, packages=(PackageVersion(name, installed, required, extra),))


def rows(machine: Machine, status: str) -> dict[str, str]:
    return {row.name: row.text for row in findings(machine) if row.status == status}


def test_a_machine_without_a_gpu_is_healthy_and_names_what_needs_one() -> None:
    assert rows(CPU, "red") == {}
    assert set(rows(CPU, "not here")) == {"driver", "gpu", "attention flash_attention_2", "model.cuda_graphs"}


def test_absent_packages_of_the_small_model_are_a_note_with_their_command() -> None:
    text = "timm is not installed. Run: pip install timm"
    assert rows(replace(CPU, small=text), "note")["path: small"] == text
    assert rows(CPU, "ok")["path: small"] == "its packages are here"


def test_a_machine_with_a_gpu_has_every_row() -> None:
    assert {row.status for row in findings(CUDA)} == {"ok"}
    assert rows(CUDA, "ok")["gpu 0"] == "NVIDIA H100, 79.0 GiB of 80.0 GiB free"


RED: list[tuple[Machine, str, str]] = [
    (replace(CUDA, torch_cuda=None, torch_archs=()), "torch build", "built for the CPU, but this machine has a GPU"),
    (replace(CUDA, gpus=(V100,)), "torch build", "without kernels for Tesla V100 (sm_70)"),
    (replace(CUDA, driver="570.10.01"), "driver", "570.10.01 is too old for CUDA 13.0, which needs 580"),
    (replace(CUDA, driver="525.60.12", torch_cuda="12.8"), "driver", "525.60.12 is too old for CUDA 12.8"),
    (replace(CUDA, driver=None, gpus=()), "driver", "nvidia-smi does not answer"),
    (replace(CUDA, visible=""), "visible gpus", "CUDA_VISIBLE_DEVICES hides every GPU"),
    (replace(CPU, quantization={"int8": "does not work on cpu here."}), "quantize int8", "does not work on cpu here."),
    (replace(CPU, folders=(Folder("cache", "/c", "Permission denied", None),)), "cache", "/c cannot be written to"),
    (replace(CPU, folders=(Folder("cache", "/c", "", GIB // 2),)), "cache", "0.5 GiB free. Free some space."),
    (with_package("vllm", "0.31.0", ">=0.32,<0.34", "vllm"), "vllm", "0.31.0 is not supported, which is >=0.32,<0.34"),
    (with_package("torch", None, ">=2.6"), "torch", "not installed (pip install 'torch>=2.6')"),
    (with_package("torch", "new", ">=2.6"), "torch", "new is not a version"),
]


@pytest.mark.parametrize(("machine", "name", "text"), RED, ids=[f"{name}: {text[:30]}" for _, name, text in RED])
def test_what_fails_is_one_red_row_that_says_why(machine: Machine, name: str, text: str) -> None:
    red = rows(machine, "red")
    assert list(red) == [name]
    assert text in red[name]


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (replace(CUDA, driver="525.60.13", torch_cuda="12.8"), "driver"),
        (replace(CUDA, gpus=(replace(H100, capability=(8, 9)),)), "torch build"),
        (replace(CUDA, gpus=(replace(H100, capability=(12, 0)),), torch_archs=("sm_90", "compute_90")), "torch build"),
        (replace(CUDA, visible="0"), "gpu 0"),
        (with_package("vllm", "0.33.0+cpu", ">=0.32,<0.34", "vllm"), "vllm"),
        (replace(CPU, torch_cuda="13.0"), "torch build"),
    ],
)
def test_what_is_at_the_limit_works(machine: Machine, name: str) -> None:
    assert rows(machine, "red") == {}
    assert name in rows(machine, "ok")


def test_an_optional_package_that_is_missing_is_a_note() -> None:
    machine = with_package("bitsandbytes", None, ">=0.49", "quantization")
    assert rows(machine, "note") == {"bitsandbytes": "not installed (pip install 'mm-icl[quantization]')"}


def test_a_gpu_that_is_too_old_for_flash_attention_is_a_note() -> None:
    machine = replace(CUDA, gpus=(V100,), torch_archs=("sm_70",))
    assert rows(machine, "red") == {}
    name = "attention flash_attention_2"
    assert rows(machine, "note") == {name: "Tesla V100 is too old for flash-attn; sdpa is used"}
    assert name in rows(replace(machine, packages=()), "note")


def test_a_gpu_without_graphs_is_a_note() -> None:
    text = "model.cuda_graphs: a decoding step of X cannot be a CUDA graph"
    assert rows(replace(CUDA, graphs=text), "note") == {"model.cuda_graphs": text}
    assert "icl doctor graphs PATH" in rows(CUDA, "ok")["model.cuda_graphs"]


def test_graphs_names_what_it_found_for_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "graphs", "tiny"]) == 0
    assert "tiny: a decoding step can be one CUDA graph" in capsys.readouterr().out
    monkeypatch.setattr(facts, "_graphs_problem", lambda path: f"{path} cannot")
    assert main(["doctor", "graphs", "other"]) == 1
    assert capsys.readouterr().out == "other cannot\n"


def test_the_table_of_the_driver_is_read() -> None:
    unknown = "GB10, [N/A], [N/A], 12.1, [N/A], 580.65.06"
    text = f"NVIDIA H100 80GB HBM3, 81559, 81008, 9.0, Enabled, 580.65.06\n{unknown}\nbad\n"
    driver, (first, second) = parse_gpus(text)
    assert driver == "580.65.06"
    assert (first.total, first.free, first.capability, first.mig) == (81559 * 2**20, 81008 * 2**20, (9, 0), True)
    assert (second.total, second.capability, second.mig) == (0, (12, 1), False)
    assert parse_gpus("") == (None, ())
    slices = rows(replace(CUDA, gpus=(replace(H100, mig=True),)), "ok")
    assert "MIG slices" in slices["gpu 0"]


def test_a_driver_that_fails_lists_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(facts.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(OSError("broken")))
    assert facts._gpus() == (None, ())


def test_a_folder_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    folder = facts._folder("cache", tmp_path / "new" / "cache")
    assert (folder.problem, list(tmp_path.iterdir())) == ("", [])
    assert folder.free
    file = tmp_path / "file"
    file.write_text("")
    assert facts._folder("cache", file).problem == "Not a directory"


def test_the_command_prints_rows_or_json_and_ends_with_1_if_one_is_red(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(facts, "inspect_machine", lambda: CPU)
    assert main(["doctor"]) == 0
    assert "not here  driver" in capsys.readouterr().out
    monkeypatch.setattr(facts, "inspect_machine", lambda: replace(CUDA, driver="1.0"))
    assert main(["doctor", "--json"]) == 1
    page = json.loads(capsys.readouterr().out)
    assert page["ok"] is False
    assert [row["name"] for row in page["findings"] if row["status"] == "red"] == ["driver"]


def test_this_machine_is_inspected_without_an_error() -> None:
    rows_here = findings(facts.inspect_machine())
    names = {row.name for row in rows_here}
    assert {"python", "torch", "transformers", "vllm", "torch build", "driver", "temporary files"} <= names
    assert all(isinstance(row, MachineFinding) and row.text for row in rows_here)
