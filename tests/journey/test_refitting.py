"""A refit that is left out, or fails, costs nobody the winner's own adapter; the reason is said."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from autopeft.cli.app import main
from autopeft.export.bundle import Bundle, Export
from autopeft.handover import conclude, export, export_winner
from autopeft.hardware.catalog import load_profile
from autopeft.job import ExportOrder
from autopeft.journey.concluding import write_conclusion
from autopeft.journey.conclusion import data_facts
from autopeft.journey.inputs import load_data
from autopeft.journey.workspace import StudyFolder, open_store, study_folder
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.report.facts import DataFacts
from autopeft.request import Request
from autopeft.search.desk import replace_checkpoint
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.train.trainer import Trainer
from autopeft.units import format_seconds
from autopeft.workload.dataset import Lengths, Workload

QUIET = Candidate(
    method="lora", rank=8, training=Training(learning_rate=1e-2, batch_size=8, epochs=2, max_length=16)
)
WILD = QUIET.model_copy(
    update={"training": QUIET.training.model_copy(update={"weight_decay": 1e38, "batch_size": 64})}
)
"""Nothing trains with this decay; a trial that has seen no row is whole all the same."""
LIMIT = 100.0

MakeStudy = Callable[..., StudyFolder]


@pytest.fixture
def study_of(tmp_path: Path, sentiment, encoder_with_weights) -> MakeStudy:
    """Make a study that was to refit its winner, as a search of `LIMIT` seconds leaves it.

    Args:
        candidate: of its only trial.   samples: rows that this was trained on.
        took: seconds that its training took.   searched: those of the whole search.
    """
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        rows = [*sentiment.train, *sentiment.validation, *sentiment.test]
        writer.writerows([f"{row.text} {at}", sentiment.labels[row.label]] for at, row in enumerate(rows))

    def make(
        candidate: Candidate, *, samples: int = 10**9, took: float = 1.0, searched: float = 10.0
    ) -> StudyFolder:
        folder = study_folder(str(tmp_path), "s")
        request = Request(
            model=str(encoder_with_weights.path),
            data=str(file),
            workspace=str(tmp_path),
            study="s",
            seq_len=16,
            refit=True,
        )
        base, dataset = load_data(request)
        assert dataset is not None
        trainer = Trainer(base, dataset, candidate, seed=0)
        last = trainer.advance(samples).model_copy(update={"seconds": took})
        replace_checkpoint(trainer.save, folder.checkpoint(0))
        data_facts(dataset).keep(folder.data)
        store = open_store(folder)
        plan = Plan(
            model="tiny",
            space="quick",
            workload=Workload(task="classification", lengths=Lengths.constant(8)),
            budget=Budget(time=LIMIT),
            profile=load_profile("l4").model_copy(update={"device": "cpu"}),
            fits=(),
            rejected=(),
        )
        asked = request.model_dump_json()
        store.create(name="s", metric=dataset.metric, seed=0, request=asked, plan=plan)
        store.add_trial(Trial(number=0, role="candidate", candidate=candidate, state="running"))
        store.finish(0, "complete", last=last)
        store.add_seconds(searched)
        store.close()
        return folder

    return make


def request_of(folder: StudyFolder) -> Request:
    return Request(workspace=str(folder.path.parents[1]), study=folder.path.name)


def is_the_trials_own(bundle: Bundle, folder: StudyFolder) -> bool:
    made = load_file(Path(bundle.path) / "adapter_model.safetensors")
    own = load_file(folder.checkpoint(bundle.trial) / "adapter" / "adapter_model.safetensors")
    return made.keys() == own.keys() and all(bool((made[name] == own[name]).all()) for name in own)


@pytest.mark.slow
def test_what_is_concluded_early_is_not_refitted_and_the_report_says_so(study_of: MakeStudy) -> None:
    folder = study_of(QUIET)
    reasons = conclude(request_of(folder)).reasons
    bundle = Bundle.read(folder.bundle / "autopeft.json")
    assert bundle.refit_rows == 0
    assert is_the_trials_own(bundle, folder)
    assert any("was left out: the search was concluded early." in each for each in reasons)


def test_without_time_for_a_refit_the_winner_is_exported_as_it_is_and_the_report_says_why(
    study_of: MakeStudy,
) -> None:
    folder = study_of(QUIET, took=60.0, searched=10.0)
    bundle = export_winner(request_of(folder), beside=85.0)
    assert bundle.refit_rows == 0
    assert is_the_trials_own(bundle, folder)
    assert not folder.refit(0).exists()
    (said,) = [each for each in write_conclusion(request_of(folder), "").reasons if "refit" in each]
    rows = DataFacts.read(folder.data).rows
    needed = format_seconds(60 * (1 + rows["validation"] / rows["train"]))
    assert said == (
        f"The refit that was asked for was left out: it takes about {needed}, and {format_seconds(5)} of the "
        "time are left."
    )
    assert said in folder.report.read_text()


@pytest.mark.slow
def test_a_refit_that_diverges_leaves_the_winner_as_it_is_and_the_report_says_why(
    study_of: MakeStudy,
) -> None:
    folder = study_of(WILD, samples=0)
    bundle = export_winner(request_of(folder))
    assert bundle.refit_rows == 0
    assert is_the_trials_own(bundle, folder)
    (said,) = [each for each in write_conclusion(request_of(folder), "").reasons if "refit" in each]
    assert said.startswith("The refit that was asked for was left out: the refit of trial 0 failed: ")
    assert "the loss became nan" in said
    assert said.endswith(" with learning rate 0.01; a smaller one may hold.")


@pytest.mark.slow
def test_an_export_with_a_refit_that_diverges_is_refused_and_the_bundle_before_it_stays(
    study_of: MakeStudy, capfd
) -> None:
    folder = study_of(WILD, samples=0)
    before = export(request_of(folder), Export(refit=False))
    flags = ("--study", "s", "--workspace", str(folder.path.parents[1]))
    with pytest.raises(SystemExit) as left:
        main(["export", *flags, "--refit", "--force"])
    assert left.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "the refit of trial 0 failed: TrialError: the loss became nan" in line
    assert Bundle.read(folder.bundle / "autopeft.json") == before
    assert is_the_trials_own(before, folder)


@pytest.mark.slow
def test_a_refit_winner_that_is_asked_for_by_its_number_stays_refit(study_of: MakeStudy) -> None:
    folder = study_of(QUIET)
    refit = export_winner(request_of(folder))
    assert refit.refit_rows > 0
    again = export(request_of(folder), ExportOrder(study="s", trial=0).wanted)
    assert (again.path, again.refit_rows) == (str(folder.bundle), refit.refit_rows)
    assert not is_the_trials_own(again, folder)


@pytest.mark.slow
def test_a_refit_whose_very_last_step_loses_it_is_no_adapter(study_of: MakeStudy) -> None:
    at_once = WILD.training.model_copy(update={"batch_size": 10**6, "epochs": 1})
    folder = study_of(WILD.model_copy(update={"training": at_once}), samples=0)
    bundle = export_winner(request_of(folder))
    assert is_the_trials_own(bundle, folder)
    (said,) = [each for each in write_conclusion(request_of(folder), "").reasons if "refit" in each]
    assert "the refit of trial 0 failed: " in said
    assert "diverged" in said


@pytest.mark.slow
def test_why_a_refit_was_left_out_is_forgotten_once_there_is_one(study_of: MakeStudy) -> None:
    folder = study_of(QUIET, took=60.0, searched=95.0)
    export_winner(request_of(folder))
    store = open_store(folder)
    store.replan(store.plan().model_copy(update={"budget": Budget(time=10 * LIMIT)}))
    store.close()
    refit = export_winner(request_of(folder))
    rows = DataFacts.read(folder.data).rows
    assert refit.refit_rows == rows["train"] + rows["validation"]
    assert not folder.no_refit.exists()
    assert "left out" not in " ".join(write_conclusion(request_of(folder), "").reasons)
