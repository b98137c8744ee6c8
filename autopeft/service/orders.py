"""Orders: what a job is to do that is no search: export a trial of a study."""

from __future__ import annotations

from autopeft.export.bundle import Export
from autopeft.service.settings import Settings

EXPORT_SECONDS = 3600.0
"""Time that an export may take, where the service grants a job that much."""
NOT_TO_EXPORT = ("out", "force", "gguf", "model_name", "push", "base_model", "refit")
"""Where it lies is the service's business, and it calls and sends to nobody.

A refit may take longer than an export is granted, and would take the place of what the search chose.
"""


class ExportOrder(Export):
    """An export of a study that the service keeps.

    Attributes:
        study: its name.
    """

    study: str

    @property
    def wanted(self) -> Export:
        """What to export; what is there already is replaced."""
        fields = self.model_dump(exclude={"study", *NOT_TO_EXPORT})
        return Export.model_validate(fields | {"force": True})


def export_seconds(settings: Settings) -> float:
    """Return how long an export may take."""
    return min(EXPORT_SECONDS, settings.longest_seconds)
