"""Checkpoints on their way from a node to the study's folder, without Ray between."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from autopeft.search.desk import checkpoint_folder
from autopeft.search.shelf import Shelf, pack_folder, unpack_folder
from autopeft.search.vitals import Vitals


def a_checkpoint(folder: Path, text: str) -> bytes:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights.bin").write_bytes(b"\x00\xff" * 1000)
    (folder / "state.json").write_text(text)
    return pack_folder(folder)


def test_a_checkpoint_arrives_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    shelf, place = Shelf(str(tmp_path / "study")), checkpoint_folder(tmp_path / "study", 3)
    assert shelf.get(3) is None
    first, second = a_checkpoint(tmp_path / "one", "one"), a_checkpoint(tmp_path / "two", "two")
    assert shelf.put(3, first) == ""
    assert shelf.put(3, second) == ""
    assert (place / "state.json").read_text() == "two"
    fetched = shelf.get(3)
    assert fetched is not None
    unpack_folder(fetched, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "adapter" / "weights.bin").read_bytes() == b"\x00\xff" * 1000


def test_a_folder_that_cannot_be_written_is_said_to_the_worker(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file where the folder should be")
    said = Shelf(str(tmp_path / "study")).put(0, a_checkpoint(tmp_path / "one", "one"))
    assert "cannot be" in said
    assert "\n" not in said


def test_an_archive_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("../escaped")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack_folder(stream.getvalue(), tmp_path / "inside")
    assert not (tmp_path / "escaped").exists()


def test_vitals_are_numbers_under_the_names_of_system_metrics() -> None:
    taken = Vitals().take()
    assert all(name.startswith("system/") for name in taken)
    assert taken["system/process_memory_usage_megabytes"] > 1
    assert 0 < taken["system/system_memory_usage_percentage"] <= 100
    assert ("system/gpu_0_memory_usage_megabytes" in taken) <= ("torch" in sys.modules)
