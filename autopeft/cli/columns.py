"""The flags that say which column plays which part, one a role."""

from __future__ import annotations

from typing import Annotated

import typer

COLUMNS = (
    *("text_column", "image_column", "audio_column", "label_column", "number_column"),
    *("words_column", "tags_column"),
    *("prompt_column", "completion_column", "chosen_column", "rejected_column"),
)
"""The flags below, by parameter."""
_PANEL = "Columns of the data"


def _column(of: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(
        metavar="NAME", rich_help_panel=_PANEL, help=f"Column of {of}."
    )
    return found


TextColumn = Annotated[str | None, _column("the text")]
ImageColumn = Annotated[str | None, _column("image files")]
AudioColumn = Annotated[str | None, _column("sound files")]
LabelColumn = Annotated[str | None, _column("the class")]
NumberColumn = Annotated[str | None, _column("the number (regression)")]
WordsColumn = Annotated[str | None, _column("the words (token-classification)")]
TagsColumn = Annotated[str | None, _column("their tags (token-classification)")]
PromptColumn = Annotated[str | None, _column("the prompt (sft, dpo)")]
CompletionColumn = Annotated[str | None, _column("the answer (sft)")]
ChosenColumn = Annotated[str | None, _column("the better answer (dpo)")]
RejectedColumn = Annotated[str | None, _column("the worse answer (dpo)")]
