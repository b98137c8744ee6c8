"""Images, sounds and datasets in directories become rows; what is none of them is named in one line."""

from __future__ import annotations

import io
import json
import struct
import wave
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from autopeft.errors import DataError
from autopeft.workload.dataset import Dataset
from autopeft.workload.images import image_fault, read_image
from autopeft.workload.media import MEDIA_CACHE
from autopeft.workload.readers import read_dataset
from autopeft.workload.sounds import read_sound, sound_fault, sound_seconds


def png(shade: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 77)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def wav(hertz: float, *, rate: int = 8000, seconds: float = 0.1, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    times = np.arange(int(rate * seconds)) / rate
    samples = (10_000 * np.sin(2 * np.pi * hertz * times)).astype("<i2")
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples[:, None], channels, axis=1).tobytes())
    return stream.getvalue()


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def fill(folder: Path, *, count: int = 40, first: int = 0, make: Callable[[int], bytes] = png) -> Path:
    suffix = ".png" if make is png else ".wav"
    for index in range(count):
        write(folder / ("cats", "dogs")[index % 2] / f"{index}{suffix}", make(first + index))
    return folder


def sizes(dataset: Dataset) -> list[int]:
    return [len(part) for part in (dataset.train, dataset.validation, dataset.test)]


def test_class_folders_of_images_become_stratified_splits(tmp_path: Path) -> None:
    dataset = read_dataset(str(fill(tmp_path / "pets", count=100)))
    assert (dataset.name, dataset.task, dataset.medium) == ("pets", "classification", "image")
    assert dataset.labels == ("cats", "dogs")
    assert sizes(dataset) == [80, 10, 10]
    assert Counter(row.label for row in dataset.test) == {0: 5, 1: 5}
    assert dataset.columns == {"label": "label", "image": "image"}
    row = dataset.train[0]
    assert Path(row.file).is_absolute()
    assert Path(row.file).parent.name == dataset.labels[row.label]


def test_class_folders_may_have_folders_and_bring_splits_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path / "Train")
    fill(tmp_path / "test", count=10, first=1000)
    write(tmp_path / "Train" / "cats" / "more" / "deep.png", png(999))
    dataset = read_dataset(str(tmp_path))
    assert sizes(dataset) == [37, 4, 10]
    assert {Path(row.file).parts[-3] for row in dataset.test} == {"test"}
    assert any(row.file.endswith("more/deep.png") for row in (*dataset.train, *dataset.validation))


def test_class_folders_of_sounds_become_rows(tmp_path: Path) -> None:
    dataset = read_dataset(str(fill(tmp_path, make=lambda index: wav(100 + index))))
    assert (dataset.medium, dataset.labels, sum(sizes(dataset))) == ("sound", ("cats", "dogs"), 40)


def test_the_same_image_under_two_names_is_in_one_split_only(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test", count=6, first=1000)
    write(tmp_path / "test" / "cats" / "leaked.png", png(0))
    write(tmp_path / "train" / "cats" / "copy.png", png(2))
    dataset = read_dataset(str(tmp_path))
    assert "1 rows left out that were also in a held-out split" in dataset.notes
    assert "1 repeated train rows left out" in dataset.notes
    held_out = {row.content for row in (*dataset.validation, *dataset.test)}
    assert not held_out & {row.content for row in dataset.train}


def test_the_same_image_in_two_classes_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "dogs" / "also_a_cat.png", png(0))
    dataset = read_dataset(str(tmp_path))
    assert "2 train rows left out: the same text has different labels" in dataset.notes
    assert sum(sizes(dataset)) == 39


def test_moving_a_directory_does_not_change_its_fingerprint(tmp_path: Path) -> None:
    before = read_dataset(str(fill(tmp_path / "before"))).fingerprint
    (tmp_path / "before").rename(tmp_path / "after")
    assert read_dataset(str(tmp_path / "after")).fingerprint == before
    write(tmp_path / "after" / "cats" / "0.png", png(4242))
    assert read_dataset(str(tmp_path / "after")).fingerprint != before


def test_other_files_in_class_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "cats" / "notes.txt", b"about cats")
    write(tmp_path / "cats" / ".DS_Store", b"\0")
    dataset = read_dataset(str(tmp_path))
    assert "1 files left out that are neither image nor sound" in dataset.notes


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_of_paths_beside_the_file_is_found_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / "media")
    rows = [
        {"number": index, "file_name": f"media/{('cats', 'dogs')[index % 2]}/{index}.png", "label": index % 2}
        for index in range(40)
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    data = tmp_path / f"data{suffix}"
    data.write_text("\n".join(lines if suffix == ".csv" else map(json.dumps, rows)))
    dataset = read_dataset(str(data))
    assert (dataset.medium, dataset.labels) == ("image", ("0", "1"))
    assert dataset.columns == {"label": "label", "image": "file_name"}


def test_sounds_with_what_is_said_in_them_are_for_transcription(tmp_path: Path) -> None:
    for index in range(30):
        write(tmp_path / f"{index}.wav", wav(200 + index))
    lines = ["audio,transcription", *(f"{index}.wav,number {index}" for index in range(30))]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    dataset = read_dataset(str(tmp_path / "data.csv"))
    assert (dataset.task, dataset.medium) == ("sft", "sound")
    assert dataset.train[0].completion.startswith("number ")


def test_texts_about_images_stay_texts_unless_the_user_names_the_column(tmp_path: Path) -> None:
    fill(tmp_path)
    names = [f"{('cats', 'dogs')[index % 2]}/{index}.png" for index in range(40)]
    lines = ["text,picture,label", *(f"caption {name},{name},{name[:4]}" for name in names)]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    assert read_dataset(str(tmp_path / "data.csv")).medium == "text"
    chosen = read_dataset(str(tmp_path / "data.csv"), columns={"image": "picture"})
    assert (chosen.medium, chosen.columns["image"]) == ("image", "picture")


FEATURES = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}


def table(count: int, first: int = 0) -> pa.Table:
    rows = [{"text": f"row {first + index}", "label": index % 2} for index in range(count)]
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pa.Table.from_pylist(rows).replace_schema_metadata(metadata)


def save_to_disk(content: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True)
    for part in range(2):
        with ipc.new_stream(folder / f"data-0000{part}-of-00002.arrow", content.schema) as stream:
            stream.write_table(content.slice(part * 20, 20 if part == 0 else None))
    files = [{"filename": f"data-0000{part}-of-00002.arrow"} for part in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


def test_a_dataset_saved_to_disk_is_read_with_its_class_names(tmp_path: Path) -> None:
    save_to_disk(table(60), tmp_path / "saved")
    dataset = read_dataset(str(tmp_path / "saved"))
    assert (dataset.labels, sum(sizes(dataset))) == (("bad", "good"), 60)


def test_a_dataset_saved_with_its_splits_keeps_them(tmp_path: Path) -> None:
    save_to_disk(table(60), tmp_path / "train")
    save_to_disk(table(30, first=60), tmp_path / "test")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert sizes(read_dataset(str(tmp_path))) == [54, 6, 30]


def test_parquet_shards_are_read_with_the_splits_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part in range(2):
        parquet.write_table(table(40, first=40 * part), tmp_path / f"data/train-0000{part}-of-00002.parquet")
    parquet.write_table(table(20, first=80), tmp_path / "data/test-00000-of-00001.parquet")
    dataset = read_dataset(str(tmp_path))
    assert (dataset.labels, sizes(dataset)) == (("bad", "good"), [72, 8, 20])


def test_images_inside_parquet_shards_become_files(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": png(index), "path": None}, "label": index % 2} for index in range(40)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    dataset = read_dataset(str(tmp_path))
    assert dataset.medium == "image"
    assert Path(dataset.train[0].file).suffix == ".png"
    assert MEDIA_CACHE in Path(dataset.train[0].file).parts


def test_files_that_a_saved_dataset_names_must_be_beside_it(tmp_path: Path) -> None:
    save_to_disk(table(60), tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../x"}]}))
    with pytest.raises(DataError, match=r"must name files beside it, but names '\.\./\.\./x'"):
        read_dataset(str(tmp_path / "saved"))


def test_an_arrow_file_whose_offsets_lie_is_refused(tmp_path: Path) -> None:
    save_to_disk(table(60), tmp_path / "saved")
    file = tmp_path / "saved" / "data-00000-of-00002.arrow"
    offsets = np.cumsum([0, *(len(f"row {index}") for index in range(20))]).astype("<i4").tobytes()
    data = file.read_bytes()
    assert offsets in data
    file.write_bytes(data.replace(offsets, offsets[:-4] + struct.pack("<i", 2**30)))
    with pytest.raises(DataError, match="no readable dataset file"):
        read_dataset(str(tmp_path / "saved"))


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def sixteen_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(stream, "PNG")
    return stream.getvalue()


IMAGE_FAULTS = {
    "text": (b"no image at all", "none of PNG, JPEG"),
    "a truncated PNG": (png(3, (64, 64))[:60], ""),
    "a truncated JPEG": (jpeg()[:-900], "truncated"),
    "a bomb": (bomb(), "pixels"),
    "sixteen bits": (sixteen_bits(), "8 bits a channel"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "none of PNG, JPEG"),
}


@pytest.mark.parametrize(("data", "words"), IMAGE_FAULTS.values(), ids=IMAGE_FAULTS.keys())
def test_a_file_that_is_no_image_says_why(data: bytes, words: str) -> None:
    fault = image_fault(data)
    assert fault
    assert words in fault
    assert "\n" not in fault


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_of_every_usual_mode_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    write(tmp_path / "image.png", png(200, mode=mode))
    assert image_fault(png(200, mode=mode)) == ""
    image = read_image(tmp_path / "image.png")
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png").getpixel((0, 0)) == (255, 255, 255)


def floats(value: float) -> bytes:
    from scipy.io import wavfile

    stream = io.BytesIO()
    wavfile.write(stream, 8000, np.full(800, value, dtype=np.float32))
    return stream.getvalue()


SOUND_FAULTS = {
    "text": (b"no sound at all", "no WAV"),
    "a header alone": (wav(440)[:30], ""),
    "no samples": (wav(440, seconds=0), "no samples"),
    "not a number": (floats(float("nan")), "not finite"),
    "a rate of nothing": (wav(440, rate=8, seconds=1), "8 samples a second"),
}


@pytest.mark.parametrize(("data", "words"), SOUND_FAULTS.values(), ids=SOUND_FAULTS.keys())
def test_a_file_that_is_no_sound_says_why(data: bytes, words: str) -> None:
    fault = sound_fault(data)
    assert fault
    assert words in fault
    assert "\n" not in fault


def test_a_header_that_claims_hours_is_refused_before_anything_is_unpacked() -> None:
    soundfile = pytest.importorskip("soundfile", reason="sounds that are no WAV need the extra sound")
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(2000, dtype=np.float32), 2000, format="FLAC")
    data = bytearray(stream.getvalue())
    assert sound_fault(bytes(data)) == ""
    data[21] |= 0x0F  # of STREAMINFO, which is at 8: the 36 bits that hold the number of samples
    data[22:26] = b"\xff" * 4
    assert sound_fault(bytes(data)) == "it lasts 34359738 seconds, more than an hour: cut it"


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_sound_is_read_as_one_channel_at_the_rate_asked_for(
    tmp_path: Path, rate: int, channels: int
) -> None:
    write(tmp_path / "tone.wav", wav(440, rate=rate, seconds=0.5, channels=channels))
    samples = read_sound(tmp_path / "tone.wav", 16_000)
    assert samples.shape == (8000,)
    assert samples.dtype == np.float32
    loudest = np.abs(np.fft.rfft(samples)).argmax() / 0.5
    assert loudest == pytest.approx(440, abs=2)
    assert np.abs(samples).max() == pytest.approx(10_000 / 32_768, rel=0.05)
    assert sound_seconds(tmp_path / "tone.wav") == pytest.approx(0.5)


@pytest.mark.online
def test_a_dataset_of_the_hub_is_read_from_its_parquet_files() -> None:
    dataset = read_dataset("cornell-movie-review-data/rotten_tomatoes")
    assert dataset.labels == ("neg", "pos")
