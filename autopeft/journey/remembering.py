"""What a search remembers of earlier studies; a study that goes on remembers what it began with."""

from __future__ import annotations

from pathlib import Path

from autopeft.journey.inputs import Inputs
from autopeft.journey.workspace import StudyFolder
from autopeft.message import Message
from autopeft.request import Request
from autopeft.search.experience import Experience, recorded_studies
from autopeft.search.past import PastStudy, past_studies
from autopeft.search.searchers import FREEZE_THAW
from autopeft.workload.dataset import Dataset


class Memory(Message):
    """What a study began with.

    Attributes:
        shipped: names of the studies among those that come with autopeft.
        own: earlier studies of the user's.
        words: a sentence for the report; empty where there is nothing to say.
    """

    shipped: tuple[str, ...] = ()
    own: tuple[PastStudy, ...] = ()
    words: str = ""


def remember(
    request: Request, inputs: Inputs, dataset: Dataset, folder: StudyFolder
) -> tuple[Memory, Experience | None]:
    """Return what a study begins with, or began with, and what that says of configurations.

    It is to be kept before the study is, so that none goes on without it; one that goes on with nothing kept
    began when nothing was remembered yet.

    A demo leaves out what was recorded on its very rows, and all earlier studies of the workspace, so that
    it shows what a search finds.
    """
    shipped = recorded_studies(inputs.base.family, dataset.task)
    kept = request.resume and folder.memory.exists()
    memory = Memory.read(folder.memory) if kept else _gathered(request, inputs, dataset, shipped)
    studies = (*(study for study in shipped if study.name in memory.shipped), *memory.own)
    found = Experience(studies if request.searcher == FREEZE_THAW else (), inputs.space, inputs.base.name)
    if not kept:
        memory = memory.model_copy(update={"words": _words(memory, found)})
        memory.keep(folder.memory)
    return memory, found or None


def _gathered(request: Request, inputs: Inputs, dataset: Dataset, shipped: tuple[PastStudy, ...]) -> Memory:
    if request.resume or request.experience == "none":
        return Memory()
    brought = tuple(study.name for study in shipped if not (request.demo and study.name == dataset.name))
    if request.experience == "shipped" or request.demo:
        return Memory(shipped=brought)
    place, family = Path(request.workspace), inputs.base.family
    return Memory(shipped=brought, own=past_studies(place, dataset.task, family, but=request.study))


def _words(memory: Memory, found: Experience) -> str:
    if found:
        models = ", ".join(sorted({study.model for study in found.studies}))
        own = sum(study in memory.own for study in found.studies)
        count = f"{len(found.studies)} earlier {'study' if len(found.studies) == 1 else 'studies'}"
        here = f" ({own} of this workspace)" if own else ""
        return f"It began with what {found.trainings:,} trainings in {count}{here} of {models} say."
    return ""
