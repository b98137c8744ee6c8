"""The stages after the search: test scores, export, report."""

from __future__ import annotations

from autopeft.errors import AutopeftError, InputError
from autopeft.export.bundle import Bundle
from autopeft.journey.conclusion import conclude, versions
from autopeft.journey.contest import Scores, hold_contest
from autopeft.journey.inputs import Inputs, load_inputs, require_dataset
from autopeft.journey.searching import stored_request
from autopeft.journey.stages import Stages
from autopeft.journey.workspace import StudyFolder, existing_study, open_store
from autopeft.methods.heads import head_name
from autopeft.plan.plan import Plan
from autopeft.report.facts import DataFacts, StudyFacts
from autopeft.request import Request
from autopeft.search.study import Study
from autopeft.space.counting import SpaceFacts, count
from autopeft.space.reader import load_space


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
        now, then = require_dataset(inputs).fingerprint, DataFacts.read(self.folder.data).fingerprint
        if now != then:
            raise InputError(
                f"the data of study {self.study.name!r} has changed since the search; "
                "put the old file back, or search again."
            )
        return inputs

    def scores(self) -> Scores:
        """Return the test scores; the test rows are touched when they are first asked for."""
        best = self.study.best
        if self.folder.scores.exists():
            scores = Scores.read(self.folder.scores)
            if scores.trial == (best.number if best else None):
                return scores
        inputs = self.inputs()
        with self.stages.timed("test scores"):
            scores = hold_contest(
                self.study, inputs.base, require_dataset(inputs), self.folder.checkpoint, self.device
            )
        return scores.keep(self.folder.scores)


def export_winner(request: Request, *, out: str | None, force: bool) -> Bundle:
    """Export the winner of a study.

    Raises:
        InputError: no trial of the study was trained to the end.
        ExportError: the place is taken, or the export does not reproduce the model.
    """
    from autopeft.export.writer import bundle_format, write_bundle
    from autopeft.train.trainer import Trainer

    done = Finished(request)
    best = done.study.best
    if best is None or best.result is None:
        raise InputError(
            f"no trial of study {done.study.name!r} was trained to the end, so there is nothing to export; "
            "give it more time: autopeft search --resume."
        )
    winner = done.scores().scores[0]
    inputs = done.inputs()
    dataset = require_dataset(inputs)
    with done.stages.timed("export"):
        seed = done.study.seed_of(best)
        trainer = Trainer(inputs.base, dataset, best.candidate, seed=seed, device=done.device)
        trainer.restore(done.folder.checkpoint(best.number))
        draft = Bundle(
            path=out or str(done.folder.bundle),
            format=bundle_format(best.candidate.method),
            model=inputs.base.name,
            task=dataset.task,
            head=head_name(inputs.base.family, dataset.task, inputs.base.config.get("model_type", "")) or "",
            labels=dataset.labels,
            candidate=best.candidate,
            budget=done.request.budget,
            predicted=best.predicted,
            measured=best.result,
            metric=dataset.metric,
            test_score=winner.test_score,
            low=winner.low,
            high=winner.high,
            further=winner.extra,
            data=dataset.name,
            data_fingerprint=dataset.fingerprint,
            seed=seed,
            study=done.study.name,
            trial=best.number,
            versions=versions(),
        )
        return write_bundle(draft, trainer, force=force)


def write_conclusion(request: Request, mlflow: str) -> StudyFacts:
    """Write the report page and the facts of a study."""
    from autopeft.report.html import write_report

    done = Finished(request)
    scores = done.scores()
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
