"""What a request names must go together: a model takes what the data holds; what it cannot learn is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from autopeft.errors import InputError, UnsupportedError
from autopeft.hardware.catalog import load_profile
from autopeft.journey.inputs import load_inputs
from autopeft.request import Request


def test_a_model_that_reads_is_not_shown_images(tmp_path: Path) -> None:
    for index in range(40):
        folder = tmp_path / "pets" / ("cats", "dogs")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(folder / f"{index}.png")
    with pytest.raises(InputError, match=r"all-MiniLM-L6-v2 reads text, but the rows of .*pets are images"):
        load_inputs(Request(model="all-MiniLM-L6-v2", data=str(tmp_path / "pets")), load_profile("t4"))
    inputs = load_inputs(Request(model="vit-base", data=str(tmp_path / "pets")), load_profile("t4"))
    assert (inputs.workload.task, inputs.workload.labels, inputs.workload.rows) == ("classification", 2, 32)


def test_transcripts_of_sounds_are_refused_before_anything_is_costed(tmp_path: Path) -> None:
    lines = ["audio,transcript"]
    for index in range(30):
        wavfile.write(tmp_path / f"{index}.wav", 16_000, np.full(800, index, dtype=np.int16))
        lines.append(f"{index}.wav,number {index}")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    with pytest.raises(UnsupportedError, match="for classification so far"):
        load_inputs(Request(model="whisper-tiny", data=str(tmp_path / "data.csv")), load_profile("t4"))


def test_sounds_are_planned_for_as_long_as_they_are(tmp_path: Path) -> None:
    for index in range(40):
        folder = tmp_path / "words" / ("yes", "no")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        wavfile.write(folder / f"{index}.wav", 16_000, np.full(16_000 * 5, index, dtype=np.int16))
    inputs = load_inputs(Request(model="wav2vec2-base", data=str(tmp_path / "words")), load_profile("t4"))
    assert inputs.workload.lengths.longest == inputs.baseline.training.max_length == 249
