"""What a service says names no place on its disk."""

from __future__ import annotations

from pathlib import Path

from autopeft.service.placeless import placeless
from autopeft.service.settings import Settings


def test_workspace_models_and_the_folder_of_an_upload_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    settings = Settings.build(workspace=tmp_path / "ws", models=[tmp_path / "models"])
    file = tmp_path / "ws" / "uploads" / ("a1" * 8) / ("0b" * 12) / "rows.csv"
    said = f"{file} has no column 'x'; {tmp_path}/models/mine is whole, so is {tmp_path}/ws/studies/one."
    assert placeless(said, settings) == "rows.csv has no column 'x'; mine is whole, so is studies/one."
    assert placeless("uploads/of-mine/rows.csv", settings) == "uploads/of-mine/rows.csv"
