"""Free main memory is that of the machine or of the smallest control group."""

from pathlib import Path

import pytest

from icl.memory import host_memory

GIB = 2**30


def system(root: Path, files: dict[str, str]) -> Path:
    files = {"proc/meminfo": "MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 33554432 kB\n", **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_machine_without_limits_has_its_available_memory(tmp_path: Path) -> None:
    assert host_memory(system(tmp_path, {})) == (32 * GIB, 64 * GIB)


def test_the_group_of_a_container_or_of_a_parent_limits_it(tmp_path: Path) -> None:
    stat = f"anon 1\ninactive_file {GIB}\n"
    files = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/job/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/job/memory.stat": stat,
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/job/step/memory.stat": stat,
    }
    assert host_memory(system(tmp_path, files)) == (6 * GIB, 8 * GIB)


@pytest.mark.parametrize(("limit", "expected"), [(4 * GIB, (3 * GIB, 4 * GIB)), (2**63 - 4096, (32 * GIB, 64 * GIB))])
def test_version_1_of_control_groups(tmp_path: Path, limit: int, expected: tuple[float, float]) -> None:
    files = {
        "proc/self/cgroup": "5:cpu:/\n4:memory:/slurm/job_1\n",
        "sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes": str(limit),
        "sys/fs/cgroup/memory/slurm/job_1/memory.usage_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/slurm/job_1/memory.stat": f"total_inactive_file {GIB}\n",
    }
    assert host_memory(system(tmp_path, files)) == expected


def test_a_system_without_proc_does_not_say(tmp_path: Path) -> None:
    assert host_memory(tmp_path) is None


def test_this_machine() -> None:
    memory = host_memory()
    assert memory is None or 0 < memory[0] <= memory[1]
