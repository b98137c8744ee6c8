"""What the tables and the summary say, and that they fit 80 columns."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

from autopeft import pipeline
from autopeft.cli import screen, summary, tables, verdicts
from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.cost.spread import Spread
from autopeft.hardware.prices import price_of
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.overview import ModelRow, Option
from autopeft.plan.plan import Fits, Plan, Prior, Rejected
from autopeft.report.facts import Compared, DataFacts, Session, StudyFacts, TestScore
from autopeft.report.intervals import mean_interval
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.units import GIB, MIB
from autopeft.workload.dataset import ACCURACY, Lengths, Workload

LORA = Candidate(method="lora", rank=16, targets="attention", training=Training(learning_rate=1e-3))
FULL = Candidate(method="full", training=Training(learning_rate=1e-4))
PROFILE = HardwareProfile(
    name="l4",
    device="cuda",
    device_name="NVIDIA L4",
    total_bytes=24 * GIB,
    usable_bytes=22 * GIB,
    context_bytes=400 * MIB,
    matmul_flops={"bfloat16": 1.2e14},
    bandwidth_bytes_per_second=3e11,
    dispatch_seconds=5e-6,
    provenance=Provenance(kind="datasheet", source="a datasheet", date="2026-01-01"),
)


def estimate(activations: int = 160 * MIB) -> CostEstimate:
    parts = MemoryParts(
        weights=87 * MIB, adapter=MIB, gradients=MIB, optimizer=2 * MIB, activations=activations
    )
    return CostEstimate(
        memory=MemoryEstimate(
            parts=parts,
            allocated_peak_bytes=parts.total,
            reserved_peak_bytes=parts.total + 10 * MIB,
            device_peak_bytes=parts.total + 410 * MIB,
            low_bytes=parts.total + 380 * MIB,
            high_bytes=parts.total + 450 * MIB,
            peak_phase="backward",
        ),
        time=TimeEstimate(
            step_seconds=0.31,
            forward_seconds=0.11,
            backward_seconds=0.19,
            optimizer_seconds=0.01,
            lower_seconds=0.27,
            upper_seconds=0.41,
            low_seconds=0.24,
            high_seconds=0.4,
            evaluation_row_seconds=0.006,
            bound="compute",
        ),
        trainable_params=147_456,
        total_params=22_860_672,
        adapter_file_bytes=600_000,
        run_seconds=58.0,
        guesses=("the fused kernel allocates nothing",),
        provenance="traced",
    )


PRIOR = Prior(
    score=0.478, spread=0.019, metric="accuracy somewhere", basis="lora 0.478", sources=("a table",)
)


def too_big(activations: int, candidate: Candidate = FULL) -> Rejected:
    peak = estimate(activations).memory.device_peak_bytes / GIB
    return Rejected(
        candidate=candidate,
        estimate=estimate(activations),
        reason=f"peak memory {peak:.2f} GiB is above the limit of 4 GB",
        way_out="a batch of about 8 rows may fit",
    )


@pytest.fixture
def plan() -> Plan:
    return Plan(
        model="all-MiniLM-L6-v2",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(27), rows=2000),
        budget=Budget(gpu_mem="4GB", time="5min", params=0.5),
        profile=PROFILE,
        fits=tuple(
            Fits(
                candidate=LORA.model_copy(update={"rank": rank}),
                estimate=estimate(),
                prior=PRIOR if rank <= 2 else None,
                on_front=rank in (1, 2),
            )
            for rank in range(1, 26)
        ),
        rejected=(
            too_big(5 * GIB),
            too_big(6 * GIB),
            Rejected(candidate=LORA, reason="nf4 needs a CUDA device"),
        ),
    )


@pytest.fixture
def facts(plan: Plan) -> StudyFacts:
    report = Report(
        samples=2000, step=125, loss=0.4, score=0.84, seconds=50, step_seconds=0.3, peak_bytes=GIB
    )
    trial = Trial(
        number=3,
        role="candidate",
        candidate=LORA,
        state="complete",
        predicted=estimate(),
        result=TrialResult(state="complete", reports=(report,)),
    )
    study = Study(name="demo", folder="f", metric=ACCURACY, seed=0, trials=(trial,), seconds=241.0)
    return StudyFacts(
        study=study,
        plan=plan,
        data=DataFacts(
            name="reviews",
            task="classification",
            metric=ACCURACY,
            rows={"train": 2000, "test": 1000},
            labels=("bad", "good"),
            columns={},
            source="a package",
            fingerprint="f",
            notes=(),
        ),
        decision="Use lora r=16 attention.",
        reasons=tuple(f"Because of reason {number}." for number in range(9)),
        scores=(
            TestScore(contender="winner", label=LORA.label, test_score=0.842, low=0.818, high=0.863),
            TestScore(
                contender="linear probe", label="frozen features", test_score=0.76, low=0.73, high=0.79
            ),
        ),
        comparisons=(
            Compared(
                quantity="peak memory",
                unit="bytes",
                predicted=GIB,
                low=0.9 * GIB,
                high=1.1 * GIB,
                measured=1.2 * GIB,
            ),
            Compared(quantity="a step", unit="seconds", predicted=0.2, measured=0.1),
        ),
        seconds={"profile": 3.0, "search": 241.0},
        places={"adapter": ".autopeft/studies/demo/bundle"},
        next_steps=("autopeft ui",),
        environment={},
    )


def shown(what: RenderableType, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False).print(what)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_a_plan_ranks_what_fits_and_sums_up_the_rest_by_reason_with_the_nearest_miss(plan: Plan) -> None:
    text = shown(verdicts.plan(plan), 100)
    assert "25 of 28 configurations fit" in text
    assert "... 4 more (--json has all)" in text
    assert "lora r=1-2 [1] attention" in text
    assert "Pareto front of prior, memory and trained parameters" in text
    assert "0.48 ±0.02" in text
    assert "unknown" in text
    assert "published, not predicted: accuracy somewhere" in text
    assert (
        "2 x nearest: full: peak memory 5.49 GiB is above the limit of 4 GB; a batch of about 8 rows" in text
    )
    assert "1 x lora r=16 attention: nf4 needs a CUDA device" in text
    shown(verdicts.plan(plan), 80)


def test_a_row_of_several_ranks_says_of_which_its_numbers_are(plan: Plan) -> None:
    words = " ".join(shown(verdicts.plan(plan), 100).split())
    assert "whose numbers are of the one in brackets." in words
    other = [
        each.model_copy(update={"candidate": each.candidate.model_copy(update={"targets": "all-linear"})})
        for each in plan.fits[1::-1]
    ]
    two = plan.model_copy(update={"fits": (*plan.fits[:2], *other)})
    both = shown(verdicts.plan(two), 100)
    assert "lora r=1-2 [1] attention" in both
    assert "lora r=1-2 [2] all-linear" in both, "each row has the numbers of its first"
    apart = [each for each in plan.fits if each.candidate.rank != 2]
    alone = shown(verdicts.plan(plan.model_copy(update={"fits": tuple(apart)})), 100)
    assert "share a row" not in " ".join(alone.split())


@pytest.mark.parametrize("width", [80, 100])
def test_a_plan_shows_what_a_training_costs_where_that_is_known(plan: Plan, width: int) -> None:
    price = price_of("l4", given=2.0)
    paid = plan.model_copy(
        update={
            "fits": tuple(each.model_copy(update={"usd": 12.34}) for each in plan.fits),
            "price": price,
            "spread": Spread(gpus=2, sharding="fsdp"),
        }
    )
    text = shown(verdicts.plan(paid), width)
    assert "all-MiniLM-L6-v2 on 2 x NVIDIA L4, fsdp, 4 GB of memory" in " ".join(text.split())
    assert "$12.34" in text
    assert "cost: of one training, $4.00 an hour (price as given)." in text
    rowless = shown(verdicts.plan(plan.model_copy(update={"price": price})), width)
    assert "$2.00 an hour (price as given); --examples N says what a training costs." in " ".join(
        rowless.split()
    )


def test_batches_are_named_only_where_they_differ() -> None:
    other = LORA.model_copy(
        update={"training": Training(batch_size=4, grad_accum=4, gradient_checkpointing=True)}
    )
    both = [Fits(candidate=each, estimate=estimate()) for each in (LORA, other)]
    assert verdicts.namer(both[:1])(LORA) == "lora r=16 attention"
    assert verdicts.namer(both)(other) == "lora r=16 attention, batch 4x4 checkpointing"


def test_of_each_configuration_one_way_to_feed_it_is_shown(plan: Plan) -> None:
    slow = LORA.model_copy(update={"training": Training(batch_size=2)})
    fits = [Fits(candidate=one, estimate=estimate()) for one in (LORA, slow)]
    text = shown(verdicts.plan(plan.model_copy(update={"fits": tuple(fits), "rejected": ()})), 100)
    assert text.count("lora r=16 attention, batch 16") == 1
    assert "batch 2" not in text
    assert "no prior" in text


def test_a_plan_counts_as_its_json_does(plan: Plan) -> None:
    slow = LORA.model_copy(update={"training": Training(batch_size=2)})
    fits = [Fits(candidate=one, estimate=estimate()) for one in (LORA, slow, FULL)]
    text = shown(verdicts.plan(plan.model_copy(update={"fits": tuple(fits), "rejected": ()})), 100)
    numbers = {words[1].strip(","): words[0] for line in text.splitlines() if len(words := line.split()) > 1}
    assert (numbers["lora"], numbers["full"]) == ("1", "3")


def test_an_overview_says_how_far_each_way_to_train_goes_and_what_is_too_big() -> None:
    fits = Option(verdict=Fits(candidate=LORA, estimate=estimate()), largest_batch=12, longest_row=8192)
    not_told = Option(verdict=Fits(candidate=LORA, estimate=estimate()))
    no = Option(verdict=too_big(9 * GIB), largest_batch=0, longest_row=0)
    rows = [
        ModelRow(model="small", parameters=22_700_000, length=512, options=(no, fits, not_told)),
        ModelRow(model="large", length=512, options=(no,)),
        ModelRow(model="larger", length=512, options=(no,)),
    ]
    text = shown(verdicts.overview(rows, Budget(gpu_mem="4GB")))
    assert "1 of 3 known models fit 4 GB of memory" in text
    assert "largest batch of 512 tokens" in text
    assert "12 / 8,192" in text
    assert "? / ?" in text
    assert "large does not fit: peak memory 9.49 GiB is above" in text
    assert "nor do larger." in text.replace("\n", " ")
    assert text.index("autopeft plan --model NAME --gpu-mem 4GB") < text.index("large does not fit")
    of_a_device = shown(verdicts.overview(rows, Budget(), "l4"))
    assert "autopeft plan --model NAME --gpu l4" in of_a_device


def test_an_overview_of_nothing_that_fits_says_what_would_and_offers_no_plan() -> None:
    refusal = too_big(9 * GIB).model_copy(update={"way_out": "one row at a time fits with 650 MB"})
    rows = [
        ModelRow(model=model, length=512, options=(Option(verdict=refusal, largest_batch=0, longest_row=0),))
        for model in ("small", "large")
    ]
    text = " ".join(shown(verdicts.overview(rows, Budget(gpu_mem="10MB"))).split())
    assert "0 of 2 known models fit 10 MB of memory" in text
    assert "one row at a time fits with 650 MB. Nor does any other" in text
    assert "--model" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_says_what_how_good_how_sure_where_and_what_next(facts: StudyFacts, width: int) -> None:
    text = shown(summary.summary(facts, wide=width == 100), width)
    for words in (
        "Use lora r=16 attention.",
        "... 3 more in the report",
        "Test accuracy on 1,000 rows",
        "0.818-0.863",
        "1.2 GiB   +20 %, outside",
        "-50 %",
        ".autopeft/studies/demo/bundle",
        "Wall time: 4 min 04 s",
        "autopeft ui",
    ):
        assert words in text
    assert ("●" in text) == (width == 100)


def test_an_interval_is_drawn_to_scale() -> None:
    assert summary.interval(0.0, 0.5, 1.0, 0.0, 1.0) == "─" * 10 + "●" + "─" * 10
    assert summary.interval(0.5, 0.5, 0.5, 0.5, 0.5).strip() == "●"
    assert not summary.interval(math.nan, math.inf, math.nan, 0.0, 1.0).strip()
    assert not summary.interval(-math.inf, math.inf, math.inf, 0.0, 1.0).strip()


def test_a_study_names_its_best_trial(facts: StudyFacts) -> None:
    text = shown(tables.study(facts.study), 100)
    assert "0.8400" in text
    assert "Best: trial 3, lora r=16 attention lr=0.001." in text
    assert "No trial was trained to the end." in shown(
        tables.study(facts.study.model_copy(update={"trials": ()}))
    )


def test_a_device_shows_where_its_numbers_come_from() -> None:
    text = shown(tables.hardware(PROFILE))
    assert "22 GiB usable of 24 GiB" in text
    assert "datasheet, a datasheet, 2026-01-01" in text


def test_a_log_says_each_stage_once_as_it_begins() -> None:
    log = Console(file=io.StringIO(), width=20)
    with log.capture() as told, screen.counting(log) as progress:
        progress("measuring this machine, which takes a while", 0, 1)
        for done in range(4):
            progress("costing configurations", done, 3)
        progress("starting the search", 1, 1)
    assert told.get().splitlines() == [
        "measuring this machine, which takes a while",
        "costing configurations",
        "starting the search",
    ]


def test_a_log_says_how_long_a_stage_takes_not_what_was_before_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((0.0, 0.0, 60.0, 75.0))  # it looks at the clock once for each thing it is told
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(seconds))
    with screen.counting() as progress:
        progress("loading model and data", 0, 1)
        progress("costing configurations", 0, 3)
        progress("costing configurations", 1, 3)
    assert "autopeft: costing configurations 1/3, 15 s" in capsys.readouterr().err.splitlines()


def test_a_log_names_what_lasts_and_not_what_is_quick(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "LOG_SECONDS", 0.2)
    with screen.counting() as progress:
        progress("quick", 0, 1)
        progress("slow", 0, 1)
        for _ in range(100):
            time.sleep(0.05)
            if said := capsys.readouterr().err:
                break
        progress("quick again", 0, 1)
    assert said == "autopeft: slow\n"


@pytest.mark.parametrize("command", ["run", "search"])
@pytest.mark.parametrize(("ended", "code"), [(True, 0), (False, 1)])
def test_a_search_of_which_no_trial_came_to_its_end_gates_what_follows(
    facts: StudyFacts,
    autopeft: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    ended: bool,
    code: int,
) -> None:
    if not ended:
        study = facts.study.model_copy(update={"trials": ()})
        facts = facts.model_copy(update={"study": study, "places": {}})
    monkeypatch.setattr(pipeline, command, lambda *_: facts if command == "run" else facts.study)
    assert autopeft(command, "--demo", "--gpu-mem", "4GB").code == code


def test_the_wall_time_says_whether_it_is_of_several_sessions(facts: StudyFacts) -> None:
    once = Session(seconds=244, allowed_seconds=None, search_seconds=241, study_seconds=241, concluded=True)
    again = once.model_copy(update={"study_seconds": 400.0, "seconds": 90.0})
    first, second = (
        shown(summary.summary(facts.model_copy(update={"session": session}))) for session in (once, again)
    )
    assert "Wall time: 4 min 04 s" in first
    assert "Wall time of this session: 1 min 30 s, of all sessions: 4 min 04 s\n  all sessions: " in second


@pytest.mark.parametrize(
    ("ends", "drawn"),
    [
        ((-math.inf, 0.5, math.inf, 0.5, 0.5), 1),
        ((-math.inf, 0.5, math.inf, 0.0, 1.0), 21),
        ((math.nan, math.nan, math.nan, 0.0, 1.0), 0),
    ],
)
def test_an_interval_without_ends_is_drawn_as_far_as_the_scale_goes(ends, drawn) -> None:
    text = summary.interval(*ends)
    assert (len(text), len(text.replace(" ", ""))) == (21, drawn)


def test_a_run_with_one_test_row_has_its_summary(facts: StudyFacts) -> None:
    low, high = mean_interval([0.7])
    one = facts.scores[0].model_copy(update={"low": low, "high": high})
    for scores in ((one,), (one, *facts.scores[1:])):
        assert "-inf-inf" in shown(
            summary.summary(facts.model_copy(update={"scores": scores}), wide=True), 100
        )
