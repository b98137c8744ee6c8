from __future__ import annotations

import re
from pathlib import Path

import pytest

from autopeft.errors import ConfigError, InputError, UnknownNameError
from autopeft.files import shipped
from autopeft.hardware.catalog import list_profiles, load_profile, profile_folders, save_profile
from autopeft.hardware.profile import HardwareProfile
from autopeft.search.schedule import share_of

SHIPPED = (shipped("profiles"),)
DTYPES = {"float32", "tfloat32", "float16", "bfloat16", "int8"}


def test_at_least_thirty_devices_ship() -> None:
    assert len(list_profiles(SHIPPED)) >= 30


@pytest.mark.parametrize("file", sorted(SHIPPED[0].glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_profile_is_plausible_and_says_where_it_comes_from(file: Path) -> None:
    profile = load_profile(str(file))

    assert profile.name == file.stem
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", profile.name)
    assert 0 < profile.context_bytes < profile.usable_bytes <= profile.total_bytes
    assert profile.usable_bytes >= 0.65 * profile.total_bytes
    assert set(profile.matmul_flops) <= DTYPES
    assert set(profile.matmul_flops) & {"float16", "bfloat16"}
    assert all(1e12 < speed < 1e16 for speed in profile.matmul_flops.values())
    assert 1e11 < profile.bandwidth_bytes_per_second < 1e13
    assert 1e-6 < profile.dispatch_seconds < 1e-3
    assert profile.device == "mps" or 50 < (profile.power_watts or 0) < 2000
    assert profile.device == "mps" or 1e10 < (profile.link_bytes_per_second or 0) < 1e12
    assert profile.provenance.kind == "datasheet"
    assert "Usable memory:" in profile.provenance.source
    assert re.fullmatch(r"20\d\d(-\d\d){0,2}", profile.provenance.date)


@pytest.mark.parametrize("profile", list_profiles(SHIPPED), ids=lambda profile: profile.name)
def test_narrower_numbers_are_never_slower_on_a_shipped_device(profile: HardwareProfile) -> None:
    order = [name for name in ("float32", "tfloat32", "float16", "int8") if name in profile.matmul_flops]
    speeds = [profile.matmul_flops[name] for name in order]

    assert speeds == sorted(speeds)


def test_a_name_is_found_however_it_is_typed() -> None:
    assert load_profile("RTX 4090", SHIPPED) == load_profile("rtx-4090", SHIPPED)
    assert load_profile("NVIDIA GeForce RTX 4090", SHIPPED) == load_profile("rtx-4090", SHIPPED)
    assert load_profile("tesla-t4", SHIPPED) == load_profile("t4", SHIPPED)


def test_a_saved_profile_reads_back_equal_by_path_and_by_name(tmp_path: Path) -> None:
    profile = load_profile("l40s", SHIPPED).model_copy(
        update={"name": "mine", "bandwidth_bytes_per_second": 1 / 3 * 1e12, "versions": {"torch": "2.13"}}
    )

    path = save_profile(profile, tmp_path / "profiles" / "mine.yaml")

    assert load_profile(str(path)) == profile
    assert load_profile("mine", profile_folders(tmp_path)) == profile


def test_a_users_profile_wins_over_the_shipped_one_of_the_same_name(tmp_path: Path) -> None:
    mine = load_profile("t4", SHIPPED).model_copy(update={"device_name": "mine"})
    save_profile(mine, tmp_path / "profiles" / "t4.yaml")

    folders = profile_folders(tmp_path)

    assert load_profile("t4", folders).device_name == "mine"
    assert len(list_profiles(folders)) == len(list_profiles(SHIPPED))


def test_profiles_are_listed_by_name() -> None:
    names = [profile.name for profile in list_profiles(SHIPPED)]

    assert names == sorted(names)


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown device 'l40'.*l40s"):
        load_profile("l40", SHIPPED)


@pytest.mark.parametrize("name", ["", "../profiles/l40s", "l40s/", "\n"])
def test_a_strange_name_is_unknown_and_leaves_the_folders(name: str) -> None:
    with pytest.raises(UnknownNameError):
        load_profile(name, SHIPPED)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("name: x\n  device: [", r"is no valid YAML at line 2, column \d+"),
        ("- 1\n", "must hold the fields of one device, but holds list"),
        ("", "but holds NoneType"),
        ("name: x\nprice: 3\n", r"price: no such field.*"),
        ("name: x\ntotal_bytes: many\n", r"total_bytes: .*'many'"),
        ("name: x\nmatmul_flops: {float32: fast}\n", r"matmul_flops\.float32: .*'fast'"),
        ("name: x\n1: 2\n", "bandwidth_bytes_per_second: Field required"),
        ("!!python/object/apply:os.getcwd []\n", "is no valid YAML"),
        ("date: 2023-13-01\n", r"is no valid YAML: month must be in 1\.\.12"),
        ("name: " + "[" * 5000, "nested too deep|no valid YAML"),
        ("name: ../../x\n", r"name: a profile's name must be .* got '\.\./\.\./x'"),
        ("matmul_flops: {float32: 0}\n", r"matmul_flops\.float32: .*greater than 0"),
        ("matmul_flops: {float32: .inf}\n", r"matmul_flops\.float32: .*finite"),
        ("bandwidth_bytes_per_second: .nan\n", "bandwidth_bytes_per_second: .*"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_it(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)

    with pytest.raises(ConfigError, match=complaint) as caught:
        load_profile(str(file))

    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_more_memory_is_usable_than_there_is(tmp_path: Path) -> None:
    file = tmp_path / "t4.yaml"
    content = (SHIPPED[0] / "t4.yaml").read_text()
    file.write_text(re.sub("usable_bytes: .*", "usable_bytes: 99999999999999", content))

    with pytest.raises(ConfigError, match=r"`usable_bytes <= total_bytes` must hold, but got \(9{14}, "):
        load_profile(str(file))


def test_a_digest_tells_speeds_apart_and_a_share_keeps_that_of_the_whole(tmp_path: Path) -> None:
    profile = load_profile("t4", SHIPPED)
    renamed = profile.model_copy(update={"name": "mine", "usable_bytes": 1, "warnings": ("busy",)})
    faster = profile.model_copy(update={"dispatch_seconds": 1e-6})

    assert load_profile(str(save_profile(profile, tmp_path / "t4.yaml"))).digest == profile.digest
    assert renamed.digest == profile.digest
    assert faster.digest != profile.digest
    assert share_of(profile, 2).digest == profile.digest


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, complaint in (
        ("missing.yaml", "No such file"),
        ("binary.yaml", "cannot be read|no valid YAML"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            load_profile(str(tmp_path / name))


def test_a_broken_file_in_the_workspace_is_named_by_the_list(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "half.yaml").write_text("name: half\n")

    with pytest.raises(InputError, match=r"half\.yaml"):
        list_profiles(profile_folders(tmp_path))
