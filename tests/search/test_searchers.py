from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from toy_training import ACCURACY, OPTIMUM, estimate_of, toy_space

from autopeft.errors import UnknownNameError
from autopeft.request import SearcherName
from autopeft.search.optuna_searcher import OptunaSearcher
from autopeft.search.searcher import Searcher
from autopeft.search.searchers import FREEZE_THAW, SEARCHERS, make_searcher
from autopeft.search.study import Trial, TrialState
from autopeft.space.candidate import Candidate, Training
from autopeft.space.domain import Choice, Domain, Range, Switches
from autopeft.space.reader import load_space
from autopeft.space.search_space import SearchSpace, assignment_of, size, warm_start
from autopeft.train.result import Report, TrialResult

Maker = Callable[..., Searcher]
DISCRETE = SearchSpace(
    name="discrete",
    domains=(
        Domain(field="method", allowed=Choice(choices=("lora", "ia3"))),
        Domain(field="rank", allowed=Choice(choices=(2, 4, 8)), when={"method": ("lora",)}),
    ),
)


def tried(candidate: Candidate, number: int = 0, state: TrialState = "complete", score: float = 0.5) -> Trial:
    report = Report(samples=10, step=1, loss=1.0, score=score, seconds=1, step_seconds=1, peak_bytes=1)
    result = None
    if state in ("complete", "stopped", "failed"):
        result = TrialResult(state=state, reports=(report,) if state != "failed" else ())
    return Trial(
        number=number,
        role="candidate",
        candidate=candidate,
        state=state,
        predicted=estimate_of(candidate),
        result=result,
    )


def score_of(candidate: Candidate) -> float:
    """Best at lora, rank 8, and a learning rate near 0.003."""
    miss = abs(candidate.training.learning_rate - 3e-3) / 3e-3
    return OPTIMUM[candidate.method] - 0.1 * min(miss, 3) - (0.05 if candidate.rank != 8 else 0)


@pytest.fixture(params=sorted(SEARCHERS))
def make(request: pytest.FixtureRequest) -> Maker:
    def maker(space: SearchSpace, **changes: Any) -> Searcher:
        given = {"seed": 3, "metric": ACCURACY}
        return make_searcher(request.param, space, **(given | changes))

    return maker


class TestEverySearcher:
    def test_proposes_only_candidates_of_the_space(self, make: Maker) -> None:
        searcher = make(toy_space())
        for number in range(9):
            candidate = searcher.propose()
            assert candidate is not None
            assert assignment_of(toy_space(), candidate) is not None
            searcher.observe(tried(candidate, number, score=score_of(candidate)))

    def test_proposes_nothing_twice_and_ends_when_all_is_tried(self, make: Maker) -> None:
        searcher = make(DISCRETE)
        proposed = []
        while (candidate := searcher.propose()) is not None:
            proposed.append(candidate.key)
            searcher.observe(tried(candidate, len(proposed)))
        assert len(proposed) == len(set(proposed)) == size(DISCRETE) == 4

    def test_proposes_nothing_twice_while_nothing_has_finished(self, make: Maker) -> None:
        searcher = make(DISCRETE)
        keys = {candidate.key for candidate in iter(searcher.propose, None)}
        assert len(keys) == 4

    def test_proposes_nothing_that_an_earlier_session_tried(self, make: Maker) -> None:
        searcher = make(DISCRETE)
        states: list[TrialState] = ["complete", "stopped", "failed"]
        old = [Candidate(method="lora", rank=2), Candidate(method="lora", rank=4), Candidate(method="ia3")]
        for candidate, state in zip(old, states, strict=True):
            searcher.observe(tried(candidate, state=state))
        assert searcher.propose() == Candidate(method="lora", rank=8)
        assert searcher.propose() is None

    def test_turns_each_layer_on_or_off_and_learns_from_what_it_proposed(self, make: Maker) -> None:
        space = SearchSpace(
            name="switched",
            domains=(
                Domain(field="method", allowed=Choice(choices=("autopeft-2024",))),
                Domain(field="layers", allowed=Switches(switches=3)),
            ),
        )
        searcher = make(space, warm=warm_start(space))
        proposed = []
        while (candidate := searcher.propose()) is not None:
            proposed.append(candidate.layers)
            searcher.observe(tried(candidate, len(proposed)))
        every = {f"switches:{number:03b}" for number in range(1, 8)}
        assert proposed[0] == "switches:111"
        assert len(proposed) == 7
        assert set(proposed) == every

    def test_begins_with_the_warm_candidates(self, make: Maker) -> None:
        warm = warm_start(toy_space())
        searcher = make(toy_space(), warm=warm)
        searcher.observe(tried(warm[0]))
        assert [searcher.propose(), searcher.propose()] == list(warm[1:])
        later = searcher.propose()
        assert later is not None
        assert later not in warm

    def test_proposes_a_warm_candidate_from_outside_the_space_once(self, make: Maker) -> None:
        outsider = Candidate(method="probe")
        searcher = make(DISCRETE, warm=[outsider, outsider])
        assert searcher.propose() == outsider
        searcher.observe(tried(outsider))
        later = searcher.propose()
        assert later is not None
        assert assignment_of(DISCRETE, later) is not None

    def test_leaves_alone_what_costs_as_much_as_a_rejected_candidate(self, make: Maker) -> None:
        searcher = make(toy_space())
        for rank in (4, 8, 16):
            searcher.observe(tried(Candidate(method="lora", rank=rank), state="rejected"))
        proposed = [searcher.propose() for _ in range(10)]
        assert all(candidate and candidate.rank in (None, 2) for candidate in proposed)

    def test_may_train_a_rejected_candidate_for_less_time(self, make: Maker) -> None:
        epochs = Domain(field="training.epochs", allowed=Choice(choices=(1.0, 2.0)))
        space = SearchSpace(name="time", domains=(epochs,), fixed={"method": "ia3"})
        searcher = make(space)
        long = Candidate(method="ia3", training=Training(epochs=2.0))
        searcher.observe(tried(long, state="rejected"))
        assert searcher.propose() == Candidate(method="ia3", training=Training(epochs=1.0))
        assert searcher.propose() is None

    def test_proposes_the_same_for_the_same_seed(self, make: Maker) -> None:
        def session(seed: int) -> list[str]:
            searcher = make(toy_space(), seed=seed)
            keys = []
            for number in range(10):
                candidate = searcher.propose()
                assert candidate is not None
                keys.append(candidate.key)
                searcher.observe(tried(candidate, number, score=score_of(candidate)))
            return keys

        assert session(5) == session(5)
        assert session(5) != session(6)

    def test_bears_trials_without_a_score(self, make: Maker) -> None:
        searcher = make(toy_space())
        for number, state in enumerate(["failed", "stopped", "complete"] * 3):
            candidate = searcher.propose()
            assert candidate is not None
            searcher.observe(tried(candidate, number, state, score=float("nan")))
        assert searcher.propose() is not None


def test_tpe_learns_where_the_good_candidates_are() -> None:
    searcher = OptunaSearcher(toy_space(), seed=0, metric=ACCURACY)
    proposed = []
    for number in range(60):
        candidate = searcher.propose()
        assert candidate is not None
        proposed.append(candidate)
        searcher.observe(tried(candidate, number, score=score_of(candidate)))
    late = proposed[-20:]
    assert sum(candidate.method == "lora" for candidate in late) >= 12


def resumed(name: str, seed: int) -> list[Candidate]:
    """Return what a searcher proposes first that was told of 30 random trials of an earlier session."""
    earlier = make_searcher("random", toy_space(), seed, ACCURACY)
    searcher = make_searcher(name, toy_space(), seed, ACCURACY)
    for number in range(30):
        candidate = earlier.propose()
        assert candidate is not None
        searcher.observe(tried(candidate, number, score=score_of(candidate)))
    found = [searcher.propose() for _ in range(8)]
    return [candidate for candidate in found if candidate is not None]


@pytest.mark.parametrize(("name", "most_of_eight"), [("tpe", 6), ("gp", 6), ("random", 5)])
def test_what_learns_goes_on_after_a_resumption_where_the_good_candidates_are(
    name: str, most_of_eight: int
) -> None:
    good = [
        candidate.method == "lora" and candidate.training.learning_rate >= 1e-3
        for candidate in resumed(name, 1)
    ]
    assert (sum(good) >= most_of_eight) == (name != "random")


def test_nsga2_finds_the_front_of_score_against_size() -> None:
    """The best score at each number of trained parameters: rank 2, 4 and 8 with a good rate, and IA3."""

    def reached(name: str) -> float:
        searcher = make_searcher(name, toy_space(), 4, ACCURACY)
        best: dict[int | None, float] = {}
        for number in range(100):
            candidate = searcher.propose()
            assert candidate is not None
            score = score_of(candidate)
            best[candidate.rank] = max(score, best.get(candidate.rank, 0.0))
            searcher.observe(tried(candidate, number, score=score))
        return sum(best[rank] for rank in (None, 2, 4, 8))

    assert reached("nsga2") > reached("random")


def test_nsga2_crosses_conditional_parameters_too() -> None:
    """Optuna draws ranks at random where some trials have none, so a quarter of them would stay 2."""
    both = [
        Domain(field="rank", allowed=Choice(choices=(2, 4, 8, 16)), when={"method": (name,)})
        for name in ("lora", "dora")
    ]
    rate = Domain(field="training.learning_rate", allowed=Range(low=1e-4, high=1e-2, log=True))
    methods = Domain(field="method", allowed=Choice(choices=("lora", "dora")))
    space = SearchSpace(name="ranks", domains=(methods, *both, rate))
    searcher = make_searcher("nsga2", space, 0, ACCURACY)
    ranks = []
    for number in range(120):
        candidate = searcher.propose()
        assert candidate is not None
        ranks.append(candidate.rank)
        score = 0.9 if candidate.rank == 2 else 0.1
        searcher.observe(tried(candidate, number, score=score))
    assert ranks[-40:].count(2) > 1.5 * ranks[:40].count(2)


def test_the_gaussian_process_stays_with_the_branch_that_scores_and_leaves_none_out() -> None:
    searcher = make_searcher("gp", toy_space(), 0, ACCURACY)
    proposed = []
    for number in range(24):
        candidate = searcher.propose()
        assert candidate is not None
        proposed.append(candidate)
        searcher.observe(tried(candidate, number, score=score_of(candidate)))
    methods = [candidate.method for candidate in proposed]
    assert set(methods[:3]) == {"lora", "ia3", "prompt_tuning"}
    assert methods[3:].count("lora") > methods[3:].count("prompt_tuning")
    assert max(score_of(candidate) for candidate in proposed[-8:]) > 0.9


def test_the_grid_has_both_ends_and_the_middle_of_a_range() -> None:
    searcher = make_searcher("grid", toy_space(), 0, ACCURACY)
    cells = list(iter(searcher.propose, None))
    rates = {candidate.training.learning_rate for candidate in cells if candidate.method == "lora"}
    assert rates == {1e-4, 1e-3, 1e-2}
    assert len(cells) == 4 * 3 + 3 + 2 * 3
    assert cells != sorted(cells, key=lambda candidate: candidate.method)


def test_a_grid_too_large_to_list_is_begun_all_the_same() -> None:
    searcher = make_searcher("grid", load_space("full"), 0, ACCURACY)
    found = [searcher.propose() for _ in range(50)]
    assert len({candidate.key for candidate in found if candidate is not None}) == 50


def test_the_command_line_names_every_searcher() -> None:
    assert set(get_args(SearcherName)) == {FREEZE_THAW, *SEARCHERS}


def test_an_unknown_searcher_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown searcher 'bayes': known: freeze-thaw, gp, grid, nsga2, random, tpe"
    ):
        make_searcher("bayes", toy_space(), 0, ACCURACY)
