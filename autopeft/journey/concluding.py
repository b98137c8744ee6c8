"""The stages after the search: test scores, export, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.errors import AutopeftError, InputError
from autopeft.export.bundle import Bundle, Evaluated
from autopeft.journey.asking import stored_request
from autopeft.journey.conclusion import conclude
from autopeft.journey.contest import Scores, evaluated, hold_contest
from autopeft.journey.inputs import Inputs, load_inputs, require_dataset
from autopeft.journey.keeping import claimed, require_weights, trained_to_the_end
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import StudyFolder, existing_study, open_store
from autopeft.plan.plan import Plan
from autopeft.report.facts import DataFacts, Session, StudyFacts
from autopeft.request import Request
from autopeft.search.study import Study, Trial
from autopeft.space.counting import SpaceFacts, count
from autopeft.space.reader import load_space
from autopeft.workload.dataset import Dataset

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer


class Finished:
    """A study that was searched, opened for what comes after."""

    def __init__(self, request: Request) -> None:
        """Open the study that `request` names, or the latest.

        Raises:
            UnknownNameError: there is none.
        """
        self.folder: StudyFolder = existing_study(request.workspace, request.study)
        self.request = stored_request(self.folder, request)
        self.stages = Stages(self.folder.stages)
        self.store = open_store(self.folder, request.storage)
        try:
            self.study: Study = self.store.load()
            self.plan: Plan = self.store.plan()
        finally:
            self.store.close()

    @property
    def device(self) -> str:
        """Where torch computes."""
        return "cuda" if self.plan.profile.device == "cuda" else "cpu"

    def inputs(self) -> Inputs:
        """Load model and data as the search had them.

        Raises:
            InputError: the data is not what the study was made from.
        """
        inputs = load_inputs(self.request, self.plan.profile)
        self.require_same(require_dataset(inputs))
        return inputs

    def require_same(self, dataset: Dataset) -> None:
        """Check that data is what the study was made from.

        Raises:
            InputError: it is not.
        """
        if dataset.fingerprint != DataFacts.read(self.folder.data).fingerprint:
            raise InputError(
                f"the data of study {self.study.name!r} has changed since the search; "
                "put the old file back, or search again."
            )

    def scores(self) -> Scores:
        """Return the test scores of the study's winner; for who has the study to himself.

        The test rows are touched when they are first asked for, and when a resumption has found another
        winner or ended the default's training; what was scored before stays.
        """
        if self.scored:
            return self.kept_scores()
        scores = self.kept_scores()
        inputs = self.inputs()
        with self.stages.timed("test scores"):
            scores = hold_contest(
                *(self.study, inputs.base, require_dataset(inputs), self.folder.checkpoint, self.device),
                scores,
            )
        return scores.keep(self.folder.scores)

    @property
    def scored(self) -> bool:
        """Whether the test scores that were kept last are those of the study as it is now."""
        return self.folder.scores.exists() and self.kept_scores().cover(self.study)

    def kept_scores(self) -> Scores:
        """Return the test scores as they were kept last; none where nothing was scored."""
        if not self.folder.scores.exists():
            return Scores(trial=None, scores=())
        return Scores.read(self.folder.scores)

    def trial(self, number: int | None) -> Trial:
        """Return a trial that was trained to the end: the winner, or that of a number.

        Raises:
            InputError: there is none, or its weights are gone.
        """
        found = trained_to_the_end(self.study, number)
        if number is not None:
            require_weights(self.folder, found)
        return found

    def trained(self, trial: Trial, inputs: Inputs) -> Trainer:
        """Return the trainer of a trial with the weights that it ended with."""
        from autopeft.train.trainer import Trainer

        seed = self.study.seed_of(trial)
        trainer = Trainer(
            inputs.base, require_dataset(inputs), trial.candidate, seed=seed, device=self.device
        )
        trainer.restore(self.folder.checkpoint(trial.number))
        return trainer

    def evaluated(self, trial: Trial, trainer: Trainer) -> Evaluated:
        """Return what a trial earned on the test rows, from the study's scores or scored now and kept."""
        scores = self.scores()
        found = scores.of(trial.number)
        if found is None:
            found = evaluated(trial.number, trainer.evaluate("test"), trainer.dataset)
            scores.model_copy(update={"evaluated": (*scores.evaluated, found)}).keep(self.folder.scores)
        return found


def open_scored(request: Request) -> tuple[Finished, Scores]:
    """Open a study with its test scores; those that are missing are scored now, if nobody searches it.

    Raises:
        ClaimedError: some are missing, and another process searches or exports the study.
        UnknownNameError: there is no such study.
    """
    done = Finished(request)
    if done.scored:
        return done, done.kept_scores()
    # The latest study may be another one a moment later; this one may have gone on.
    named = request.model_copy(update={"study": done.folder.path.name})
    with claimed(named):
        done = Finished(named)
        return done, done.scores()


def write_conclusion(request: Request, mlflow: str) -> StudyFacts:
    """Write the report page and the facts of a study.

    Raises:
        ClaimedError: test scores are missing, and another process searches or exports the study.
    """
    from autopeft.report.html import write_report

    done, scores = open_scored(request)
    with done.stages.timed("report"):
        manifest = done.folder.bundle / "autopeft.json"
        bundle = Bundle.read(manifest) if manifest.exists() else None
        facts = conclude(
            study=done.study,
            plan=done.plan,
            data=DataFacts.read(done.folder.data),
            scores=scores,
            bundle=bundle if bundle is not None and bundle.trial == scores.trial else None,
            folder=done.folder,
            seconds=done.stages.seconds,
            mlflow=mlflow,
            space=_space_facts(done.request.space),
            session=Session.read(done.folder.session) if done.folder.session.exists() else None,
            demo=done.request.demo is not None,
        )
        facts.keep(done.folder.facts)
        write_report(facts, done.folder.report)
    return facts


def _space_facts(name: str) -> SpaceFacts | None:
    """Count the space of a study, whose file may have moved since."""
    try:
        return count(load_space(name))
    except AutopeftError:
        return None
