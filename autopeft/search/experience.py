"""Experience: what earlier studies say of a configuration before a search has tried any.

Each earlier study has a surrogate of its own, and where the surrogate of a new search begins is the mean of
what they believe, weighed by how much they know of a configuration. Surrogates of one's own for each study
that are then averaged are Feurer, Letham and Bakshy's (2018, arXiv:1802.02219); that the new one models what
the old ones leave is Golovin et al.'s (2017, Vizier, section 3.3).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from pydantic import model_validator

from autopeft.message import Message
from autopeft.search.encoding import GROUPS, LENGTHS, Encoding
from autopeft.search.evidence import on_one_scale
from autopeft.search.past import PastStudy, PastTraining
from autopeft.search.surrogate import Array, Curve, Prior, Surrogate
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import SearchSpace
from autopeft.workload.base_model import Family
from autopeft.workload.tasks import Task

FILE = Path(__file__).with_name("experience.json")
_CARRIED_OVER = 0.6
"""Share of a configuration's standing in an earlier study that is expected in a new one."""
_OTHER_MODEL = 0.5
"""So much less where the earlier study was of another model."""
_FEWEST = 3
"""A study of fewer trainings tells nothing."""
_MOST = 300
"""So many trainings of a study count, the first: fitting a surrogate takes the cube of their evaluations."""
_TUNED_UP_TO = 300
"""Evaluations up to which a surrogate's own parameters are fitted, which takes a second."""
_DEEP = 50
"""Of so many trainings of the very model, what is published says no more; a judgement."""

_RATE_PENALTY = 0.5
"""A learning rate one decade from the usual one is believed to cost so many standard deviations of scores."""


class Recorded(Message):
    """The content of experience.json: trainings of the same candidates on several datasets.

    Attributes:
        model, family, task: what was trained.
        source: where this was measured.
        scores: by dataset, the final validation score of each candidate.
    """

    model: str
    family: Family
    task: Task
    source: str
    candidates: tuple[Candidate, ...]
    scores: dict[str, tuple[float, ...]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, scores in self.scores.items():
            if len(scores) != len(self.candidates):
                raise ValueError(
                    f"{name} must have {len(self.candidates)} scores, one a candidate, but got {len(scores)}"
                )
        return self


def recorded_studies(family: Family, task: Task, *, file: Path = FILE) -> tuple[PastStudy, ...]:
    """Return the studies that autopeft brings along for a family and task."""
    recorded = _read(file)
    if (recorded.family, recorded.task) != (family, task):
        return ()
    return tuple(
        PastStudy(
            name=name,
            model=recorded.model,
            trainings=tuple(
                PastTraining(candidate=candidate, curve=((1.0, score),))
                for candidate, score in zip(recorded.candidates, scores, strict=True)
            ),
        )
        for name, scores in recorded.scores.items()
    )


@cache
def _read(file: Path) -> Recorded:
    return Recorded.model_validate(json.loads(file.read_text(encoding="utf-8")))


class _Known(NamedTuple):
    """What one study knows.

    Attributes:
        constant: the value of each feature that is the same in all its trainings, which says nothing of what
            another does; NaN where they differ.
    """

    surrogate: Surrogate
    weight: float
    constant: Array


class Experience:
    """What earlier studies say of the candidates of a space.

    Args:
        studies: earlier studies of the same task.
        space: that of the search that begins; trainings of methods that it lacks do not count.
        model: what is to be trained.

    Attributes:
        studies: those that count.   trainings: how many of theirs.
        deep: whether enough are of the very model to be preferred to what is published.
    """

    def __init__(self, studies: Sequence[PastStudy], space: SearchSpace, model: str) -> None:
        self._encoding = Encoding(space)
        self._known: list[_Known] = []
        self.studies: tuple[PastStudy, ...] = ()
        self.trainings = of_this_model = 0
        for study in studies:
            counting = [each for each in study.trainings if each.candidate.method in space.methods][:_MOST]
            if len(counting) >= _FEWEST:
                weight = 1.0 if study.model == model else _OTHER_MODEL
                self._known.append(self._learnt(counting, weight))
                self.trainings += len(counting)
                self.studies = (*self.studies, study)
                of_this_model += len(counting) * (study.model == model)
        self.deep = of_this_model >= _DEEP

    def __bool__(self) -> bool:
        return bool(self._known)

    def believed(self, features: Array) -> Prior:
        """Return what is expected of configurations; what earlier studies say of them is doubted.

        Of what no study knows anything of: that learning rates far from the usual one do worse.

        Args:
            features: as `Encoding` of the space has them, (configurations, features).
        """
        unknown = _unknown(features)
        nobody = [None] * len(features)
        gains, certainties = np.zeros(len(features)), np.zeros(len(features))
        for known in self._known:
            asked = np.where(np.isnan(known.constant), features, known.constant)
            belief = known.surrogate.final(asked, nobody, unknown)
            certainty = np.clip(1 - (belief.sd / known.surrogate.ignorance) ** 2, 1e-6, 1.0)
            gains += certainty * known.weight * (belief.mean - known.surrogate.before(unknown))
            certainties += certainty
        carried = _CARRIED_OVER * gains / np.maximum(certainties, 1e-6)
        return Prior(unknown.mean + carried, carried)

    def _learnt(self, trainings: Sequence[PastTraining], weight: float) -> _Known:
        surrogate = Surrogate(self._encoding.groups, LENGTHS)
        features = self._encoding.features([training.candidate for training in trainings])
        values = on_one_scale([training.curve for training in trainings])
        curves = [
            Curve(row, tuple(share for share, _ in training.curve), value)
            for row, training, value in zip(features, trainings, values, strict=True)
        ]
        few = sum(len(curve.shares) for curve in curves) <= _TUNED_UP_TO
        surrogate.fit(curves, prior=_unknown(features), tune=few)
        methods = np.array(self._encoding.groups) == GROUPS.index("method")
        constant = (np.ptp(features, axis=0) == 0) & ~methods
        return _Known(surrogate, weight, np.where(constant, features[0], np.nan))


def _unknown(features: Array) -> Prior:
    return Prior(-_RATE_PENALTY * np.minimum(features[:, 0] ** 2, 4.0), np.zeros(len(features)))
