from __future__ import annotations

from collections.abc import Callable

import pytest

from autopeft.report.facts import Session, StudyFacts, TestScore
from autopeft.report.leads import lead
from autopeft.report.reasons import reasons
from autopeft.report.rows import score_rows
from autopeft.search.study import Trial
from autopeft.train.result import TrialResult
from autopeft.workload.dataset import ACCURACY, HELD_OUT_LOSS
from autopeft.workload.tasks import RELATIVE_ERROR

FactsFactory = Callable[..., StudyFacts]


def score(contender: str, value: float, half: float = 0.02, **fields: float) -> TestScore:
    return TestScore(
        contender=contender,
        label=f"{contender} as configured",
        test_score=value,
        low=value - half,
        high=value + half,
        **fields,
    )


def with_scores(trial: Trial, value: float) -> TrialResult:
    assert trial.result is not None
    reports = tuple(each.model_copy(update={"score": value}) for each in trial.result.reports)
    return trial.result.model_copy(update={"reports": reports})


def test_decision_names_configuration_score_interval_leads_and_memory(facts: StudyFacts) -> None:
    assert facts.decision == (
        "Use dora r=16 query+value lr=0.002: accuracy 0.842 [0.818, 0.863] on 1,000 test rows, "
        "1.2 points above the LoRA default (within noise) and 8.1 points above the linear probe; "
        "it peaked at 985 MiB of the 4 GB (3.73 GiB) allowed, 2.76 GiB to spare."
    )


def test_speeds_that_were_measured_beside_other_work_are_said(facts: StudyFacts) -> None:
    given = {"study": facts.study, "data": facts.data, "scores": facts.scores}
    words = "predicted times say little here"
    compared = facts.comparisons
    slowed = facts.plan.profile.model_copy(update={"disturbance": 0.5})
    assert compared
    assert not any(words in each for each in reasons(plan=facts.plan, comparisons=compared, **given))
    doubtful = facts.plan.model_copy(update={"profile": slowed})
    assert any(words in each for each in reasons(plan=doubtful, comparisons=compared, **given))


def test_a_probe_that_beats_the_winner_is_preferred(make_facts: FactsFactory) -> None:
    facts = make_facts(
        scores=(score("winner", 0.80), score("LoRA default", 0.79), score("linear probe", 0.9))
    )
    assert facts.decision.startswith("Prefer the linear probe (linear probe as configured): accuracy 0.900")
    assert "10.0 points above the search's winner" in facts.decision


def test_a_default_within_noise_is_not_preferred(make_facts: FactsFactory) -> None:
    facts = make_facts(scores=(score("winner", 0.80), score("LoRA default", 0.81)))
    assert facts.decision.startswith("Use winner as configured")
    assert "1.0 points below the LoRA default (within noise)" in facts.decision


def test_equal_scores_are_called_level(make_facts: FactsFactory) -> None:
    facts = make_facts(scores=(score("winner", 0.8), score("LoRA default", 0.8)))
    assert "level with the LoRA default (within noise)" in facts.decision


def test_the_default_is_kept_where_nothing_beat_it(make_facts: FactsFactory, facts: StudyFacts) -> None:
    baseline = tuple(trial for trial in facts.study.trials if trial.role == "baseline")
    scores = (score("winner", 0.8), score("LoRA default", 0.8), score("linear probe", 0.7))
    kept = make_facts(trials=baseline, scores=scores)
    words = "Keep the default, winner as configured: nothing else was trained to the end"
    assert kept.decision.startswith(words)
    worse = next(
        trial for trial in facts.study.trials if trial.role != "baseline" and trial.state == "complete"
    )
    beaten = (*baseline, worse.model_copy(update={"result": with_scores(worse, 0.1)}))
    assert (
        "nothing else did better on the validation rows" in make_facts(trials=beaten, scores=scores).decision
    )
    assert not any("LoRA default" in text for text in (kept.decision, *kept.reasons))


def test_without_a_complete_trial_nothing_is_recommended(fruitless: StudyFacts) -> None:
    assert fruitless.decision == (
        "Nothing to recommend: no trial was trained to the end (1 started); most often because: "
        "diverged: the training loss became NaN at step 41."
    )


def test_without_any_trial_the_most_frequent_refusal_is_told(make_facts: FactsFactory) -> None:
    empty = make_facts(trials=())
    assert "Nothing was trained" in empty.decision
    assert "nf4 needs a CUDA device" in empty.decision
    assert empty.reasons[0] == "No configuration was trained to the end; 3 refused before starting."


def test_pairing_on_the_same_rows_finds_what_separate_intervals_cannot() -> None:
    winner, other = score("winner", 0.82), score("LoRA default", 0.80)
    paired = score("LoRA default", 0.80, lead=0.02, lead_low=0.005, lead_high=0.035)
    assert lead(winner, other, ACCURACY).judgement == "within noise"
    assert lead(winner, paired, ACCURACY).judgement == "better"


def test_a_regression_says_how_to_read_its_score(facts: StudyFacts) -> None:
    winner = score("winner", 0.4).model_copy(update={"extra": {"mean_absolute_error": 2.5}})
    data = facts.data.model_copy(update={"metric": RELATIVE_ERROR})
    found = reasons(study=facts.study, plan=facts.plan, data=data, scores=(winner,))
    assert found[0] == (
        "How to read the relative absolute error: 1 is always saying the median of the training rows, "
        "0 is never being wrong, lower is better; the winner is 2.5 off on average, in the numbers' own unit."
    )


def test_a_lower_loss_is_better() -> None:
    winner, other = score("winner", 1.0), score("no adapter", 2.0)
    assert lead(winner, other, HELD_OUT_LOSS).judgement == "better"
    assert lead(other, winner, HELD_OUT_LOSS).judgement == "worse"


def test_of_a_loss_the_winners_lead_has_one_sign_in_sentence_and_table(make_facts: FactsFactory) -> None:
    scores = (score("winner", 1.0), score("LoRA default", 1.1, lead=-0.1, lead_low=-0.12, lead_high=-0.08))
    made = make_facts(scores=scores)
    made = made.model_copy(update={"data": made.data.model_copy(update={"metric": HELD_OUT_LOSS})})
    study = made.study.model_copy(update={"metric": HELD_OUT_LOSS})
    said = reasons(study=study, plan=made.plan, scores=scores, data=made.data)
    words = next(each for each in said if each.startswith("Against"))
    assert words == "Against the LoRA default: +0.100 [+0.080, +0.120], more than noise."
    assert score_rows(made)[1].ahead == "+0.100"


@pytest.mark.parametrize(
    "words",
    [
        "of 5 trained to the end; 3 stopped early, 1 failed and 4 refused before starting",
        "Against the LoRA default: +1.2 points [-0.7, +3.1], within noise",
        "3 other configurations lie within noise of it on the 500 validation rows",
        "Peak memory of the process: predicted 954 MiB, measured 985 MiB (+3 %), inside the 90 % band.",
        "The search took 4 min 01 s, within the 5 min 00 s allowed; the rest of the run was not timed.",
        "one seed (0) and one split of the rows: no leader was trained again from another",
    ],
)
def test_reasons_tell(facts: StudyFacts, words: str) -> None:
    assert any(words in reason for reason in facts.reasons)


def test_a_tie_and_what_was_ahead_when_it_was_set_aside_are_told(facts: StudyFacts) -> None:
    best = facts.study.best
    assert best is not None
    assert best.result is not None
    last = best.result.reports[-1]
    reports = (last.model_copy(update={"score": last.score + 0.05}),)
    ahead = best.result.model_copy(update={"reports": reports})
    other = best.candidate.model_copy(update={"rank": 3})
    more = (
        best.model_copy(update={"number": 97, "candidate": other}),
        best.model_copy(update={"number": 98, "candidate": other, "state": "paused", "result": ahead}),
    )
    study = facts.study.model_copy(update={"trials": (*facts.study.trials, *more)})
    said = reasons(study=study, plan=facts.plan, scores=facts.scores, data=facts.data)
    assert f"{best.result.score:.3f}, of 6 trained to the end, 1 other with the same; " in said[0]
    assert f"1 set aside (1 of them with a better one by then, {ahead.score:.3f})" in said[0]


@pytest.mark.parametrize(
    ("state", "of_the_winner", "words"),
    [
        ("paused", True, "it was begun from another, but that did not come to its end."),
        ("complete", False, "what was trained again from others was not the winner."),
        ("paused", False, "no leader was trained again from another"),
    ],
)
def test_which_repetitions_there_were_is_told(
    facts: StudyFacts, state: str, of_the_winner: bool, words: str
) -> None:
    best = facts.study.best
    assert best is not None
    whole = [trial for trial in facts.study.trials if trial.state == "complete"]
    other = next(trial for trial in whole if trial.candidate.key != best.candidate.key)
    again = (best if of_the_winner else other).model_copy(
        update={"number": 96, "repetition": 1, "state": state}
    )
    study = facts.study.model_copy(update={"trials": (*facts.study.trials, again)})
    said = reasons(study=study, plan=facts.plan, scores=facts.scores, data=facts.data)
    assert any(words in each for each in said), said[-1]


def test_a_validation_score_above_the_test_interval_is_called_luck(make_facts: FactsFactory) -> None:
    facts = make_facts(scores=(score("winner", 0.78),))
    assert any("Validation was kinder (0.842)" in reason for reason in facts.reasons)


def test_a_peak_over_the_budget_is_admitted(make_facts: FactsFactory, facts: StudyFacts) -> None:
    budget = facts.plan.budget.model_copy(update={"gpu_mem": 900 * 10**6})
    assert "but it peaked at 985 MiB, over the 900 MB (858 MiB) allowed" in make_facts(budget=budget).decision


def test_what_must_not_be_overlooked_is_among_the_first_reasons(
    make_facts: FactsFactory, facts: StudyFacts
) -> None:
    last = Session(seconds=400, allowed_seconds=300, search_seconds=241, study_seconds=241, concluded=True)
    profile = facts.plan.profile.model_copy(update={"disturbance": 0.4, "warnings": ("other work",)})
    outside = [each.model_copy(update={"high": each.predicted, "measured": 2 * each.predicted})
               for each in facts.comparisons if each.high is not None]  # fmt: skip
    said = reasons(
        study=facts.study,
        plan=facts.plan.model_copy(update={"profile": profile}),
        data=facts.data,
        scores=facts.scores,
        comparisons=outside,
        session=last,
    )
    early = said[1 : 3 + len(outside)]
    assert early[0].startswith("The whole run took 6 min 40 s, over the 5 min 00 s allowed")
    assert early[1].startswith("Speeds were measured beside other work")
    assert all(each.endswith("outside the 90 % band.") for each in early[2:])
    assert len(set(said)) == len(said)


def test_a_single_complete_trial_is_the_only_one(make_facts: FactsFactory, facts: StudyFacts) -> None:
    only: tuple[Trial, ...] = (facts.study.trials[3],)
    assert "as the only one trained to the end" in make_facts(trials=only).reasons[0]


def test_the_reason_of_a_repeated_winner_is_its_average(make_facts: FactsFactory) -> None:
    def run(number: int, rank: int, value: float) -> Trial:
        done = next(each for each in make_facts().study.trials if each.state == "complete")
        last = done.result.reports[-1].model_copy(update={"score": value})
        changed = {
            "number": number,
            "role": "candidate",
            "candidate": done.candidate.model_copy(update={"rank": rank}),
            "result": done.result.model_copy(update={"reports": (last,)}),
        }
        return done.model_copy(update=changed)

    others = [run(4 + at, 64 + at, 0.70) for at in range(3)]
    facts = make_facts(trials=(run(0, 4, 0.84), run(1, 4, 0.86), *others))
    assert facts.study.best is not None
    assert facts.study.best.candidate.rank == 4
    words = "Most is expected of it: validation accuracy 0.850 on average of 2 trainings"
    assert any(words in reason for reason in facts.reasons)


@pytest.mark.parametrize(
    ("tested", "words"),
    [
        (3, "The test rows were used for 3 configurations, after the search."),
        (
            5,
            "The test rows were used for 5 configurations, 2 of them not shown here: a choice by these "
            "scores flatters what it takes.",
        ),
    ],
)
def test_it_is_said_for_how_many_configurations_the_test_rows_were_used(
    facts: StudyFacts, tested: int, words: str
) -> None:
    stated = {"study": facts.study, "plan": facts.plan, "data": facts.data, "scores": facts.scores}
    assert words in reasons(**stated, tested=tested)
    assert not any("The test rows were used" in line for line in reasons(**stated))
    assert facts.model_copy(update={"tested": tested}).tested_unseen == tested - 3


def test_a_default_that_won_is_one_configuration(facts: StudyFacts) -> None:
    baseline = facts.study.model_copy(update={"trials": facts.study.trials[:1]})
    scores = (score("winner", 0.8), score("LoRA default", 0.8), score("linear probe", 0.7))
    found = reasons(study=baseline, plan=facts.plan, data=facts.data, scores=scores, tested=2)
    assert "The test rows were used for 2 configurations, after the search." in found


@pytest.mark.parametrize(("prefer", "words"), [("small", "smallest"), ("fast", "fastest to train")])
def test_a_preference_that_no_noise_could_be_weighed_by_is_said(facts: StudyFacts, prefer, words) -> None:
    asked = {"prefer": prefer, "validation_rows": 500}

    def said(**change: object) -> str:
        study = facts.study.model_copy(update=asked | change)
        return " ".join(reasons(study=study, plan=facts.plan, data=facts.data, scores=facts.scores))

    blind = f"the {words} within noise of the best was asked for, but nothing was trained twice"
    assert blind in said(metric=HELD_OUT_LOSS)
    assert blind not in said()
