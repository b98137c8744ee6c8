"""A bundle is downloaded whole, and names nothing that only the service's disk knows."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autopeft.errors import ConfigError
from autopeft.export.bundle import Bundle
from autopeft.export.card import model_card
from autopeft.export.opening import checksums, open_bundle
from autopeft.export.swap import replacing
from autopeft.service.problems import RefusedError
from autopeft.service.zipping import zipped
from autopeft.train.result import Report, TrialResult
from tests.export.test_opening import FIELDS

REPORT = Report(samples=1, step=1, loss=1, score=1, seconds=1, step_seconds=1, peak_bytes=1, extra={})


def fill(folder: Path, base: str = "", weights: str = "old") -> Bundle:
    """Write a bundle whose base is a directory, as an export writes it."""
    (folder / "templates").mkdir(parents=True)
    (folder / "templates" / "tool_use.jinja").write_text(weights)
    (folder / "adapter_model.safetensors").write_text(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 8}))
    fields = FIELDS | {"base": base, "model": Path(base).name or "tiny"}
    bundle = Bundle(**fields | {"measured": TrialResult(state="complete", reports=(REPORT,))})
    (folder / "README.md").write_text(model_card(bundle))
    return bundle.model_copy(update={"files": checksums(folder)}).keep(folder / "autopeft.json")


def unzipped(parts: Iterator[bytes], place: Path) -> Path:
    """Write what was downloaded to a directory; return the bundle in it."""
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert {stat.S_IMODE(each.external_attr >> 16) for each in archive.infolist()} == {0o644}
        archive.extractall(place)
    return place / "study"


@pytest.mark.parametrize(
    ("directory", "named", "said"),
    [
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "which is taken to be the same"),
        ("my-own", "my-own", "load this where a directory of that name lies"),
    ],
)
def test_a_download_names_no_place_of_the_disk_and_says_which_base_it_needs(
    tmp_path: Path, directory: str, named: str, said: str
) -> None:
    place = tmp_path / "study" / "bundle"
    fill(place, str(tmp_path / "models" / directory))
    (place / "adapter_model.safetensors").chmod(0o600)
    there = unzipped(zipped(place), tmp_path / "there")
    files = [each for each in there.rglob("*") if each.is_file()]
    assert not [each.name for each in files if str(tmp_path) in each.read_text()]
    assert json.loads((there / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": named,
        "r": 8,
    }
    card = (there / "README.md").read_text()
    assert said in card
    assert f"a directory named {directory} where this was made" in card
    assert set(open_bundle(there).files) | {"autopeft.json"} == {
        str(each.relative_to(there)) for each in files
    }


def test_a_base_of_the_hub_is_named_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "study" / "bundle"
    fill(place, "org/base")
    there = unzipped(zipped(place), tmp_path / "there")
    assert "where this was made" not in (there / "README.md").read_text()
    assert json.loads((there / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    assert open_bundle(there).base == "org/base"


def test_a_bundle_that_is_replaced_while_it_is_downloaded_comes_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "study" / "bundle"
    fill(place, "org/base")
    parts = zipped(place)
    first = next(parts)
    with replacing(place, force=True) as staging:
        (staging / "adapter_config.json").write_text("{}")
        (staging / "autopeft.json").write_text("new")
    there = unzipped(iter([first, *parts]), tmp_path / "there")
    assert (there / "adapter_model.safetensors").read_text() == "old"
    assert (there / "templates" / "tool_use.jinja").read_text() == "old"
    open_bundle(there)


def test_a_bundle_that_is_replaced_while_its_files_are_opened_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, read, left = tmp_path / "study" / "bundle", Bundle.read, [1]
    fill(place, "org/base")

    def replaced(file: Path) -> Bundle:
        if left and left.pop():
            with replacing(place, force=True) as staging:
                fill(staging, "org/base", weights="new")
        return read(file)

    monkeypatch.setattr(Bundle, "read", replaced)
    parts = zipped(place)
    monkeypatch.undo()
    there = unzipped(parts, tmp_path / "there")
    assert open_bundle(there).files
    assert (there / "adapter_model.safetensors").read_text() == "new"


def test_a_bundle_that_is_never_still_is_refused_and_one_that_is_none_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "study" / "bundle"
    fill(place)
    (place / "autopeft.json").write_text("{")
    with pytest.raises(ConfigError, match=r"autopeft\.json"):
        zipped(place)
    moments = iter(range(100))
    monkeypatch.setattr("autopeft.service.zipping._identity", lambda _: (0, next(moments)))
    with pytest.raises(RefusedError, match="try again"):
        zipped(place)


def test_a_download_keeps_only_large_files_open(tmp_path: Path) -> None:
    place = tmp_path / "study" / "bundle"
    fill(place, "org/base")
    (place / "adapter_model.safetensors").write_bytes(bytes(3 << 20))
    before = len(list(Path("/proc/self/fd").iterdir()))
    parts = [zipped(place) for _ in range(5)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 5
    assert (unzipped(parts[0], tmp_path / "there") / "adapter_model.safetensors").stat().st_size == 3 << 20
