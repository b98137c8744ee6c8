from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from autopeft.hardware.limits import core_limit, core_quota, memory_limits
from autopeft.units import GIB


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    return root


def membership(groups: Path, text: str) -> Path:
    file = groups.parent / "self"
    file.write_text(text)
    return file


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_without_control_groups_the_machine_itself_is_the_limit(tmp_path: Path) -> None:
    total, free = memory_limits(tmp_path, tmp_path / "missing")

    assert total == psutil.virtual_memory().total
    assert 0 < free <= total
    assert core_limit(tmp_path, tmp_path / "missing") >= 1


def test_the_tightest_group_above_the_process_limits_memory_and_its_cache_counts_as_free(
    groups: Path,
) -> None:
    put(groups / "a", memory__max=str(GIB), memory__current=str(GIB // 2))
    put(groups / "a", memory__stat=f"anon 1\ninactive_file {GIB // 4}")
    put(groups / "a" / "b", memory__max="max", memory__current=str(GIB // 8))

    total, free = memory_limits(groups, membership(groups, "0::/a/b\n"))

    assert total == GIB
    assert free == GIB - GIB // 4


def test_version_one_groups_are_read_from_their_controllers(groups: Path) -> None:
    put(groups / "memory" / "job", memory__limit_in_bytes=str(GIB), memory__usage_in_bytes=str(GIB // 4))
    put(groups / "memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="1")
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    put(groups / "cpu", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    me = membership(groups, "5:memory:/job\n4:cpu,cpuacct:/job\n")

    assert memory_limits(groups, me) == (GIB, GIB - GIB // 4)
    assert core_limit(groups, me) == 1


def test_a_full_group_has_nothing_free(groups: Path) -> None:
    put(groups, memory__max=str(GIB), memory__current=str(2 * GIB))

    assert memory_limits(groups, membership(groups, "0::/\n")) == (GIB, 0)


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("100000 100000", 1)])
def test_a_quota_of_processor_time_limits_the_cores(groups: Path, quota: str, cores: int) -> None:
    put(groups, cpu__max=quota)

    assert core_limit(groups, membership(groups, "0::/elsewhere/on/the/host\n")) == cores


def test_an_endless_quota_does_not_limit_the_cores(groups: Path) -> None:
    me = membership(groups, "0::/\n")
    unlimited = core_limit(groups, me)
    put(groups, cpu__max="max 100000")

    assert core_limit(groups, me) == unlimited


def test_the_tightest_quota_says_what_its_group_has_computed(groups: Path) -> None:
    put(groups / "a", cpu__max="150000 100000", cpu__stat="usage_usec 2500000\nuser_usec 1")
    put(groups / "a" / "b", cpu__max="max 100000", cpu__stat="usage_usec 1")
    found = core_quota(groups, membership(groups, "0::/a/b\n"))

    assert found is not None
    assert (found.cores, found.folder, found.used_seconds) == (1.5, groups / "a", 2.5)
    assert core_quota(groups, groups / "missing") is None
