"""Every task that a family can be trained for is traced: what is planned is what is run."""

from __future__ import annotations

from typing import get_args

import pytest
from recordings import LASTING, faked, peak_of, real, totals

from autopeft.cost.loops import LOOPS
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.take import Job
from autopeft.cost.tracing.trace import trace
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.tasks import TASKS, Task, head_outputs

pytestmark = pytest.mark.usefixtures("spared")

FEW_SCALARS = 32
SHAPES = ((2, 8), (2, 16))
TEXT: tuple[Family, ...] = ("decoder", "encoder", "encoder-decoder")
CASES = [(family, task) for task in get_args(Task) for family in TEXT if family in TASKS[task].heads]


@pytest.fixture
def bases(tiny_bert: BaseModel, tiny_llama: BaseModel, tiny_t5: BaseModel) -> dict[Family, BaseModel]:
    return {base.family: base for base in (tiny_bert, tiny_llama, tiny_t5)}


def candidate(method: str = "lora") -> Candidate:
    return complete(Candidate(method=method, training=Training(max_length=16)))


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_task_does_on_fake_tensors_what_it_does_on_real_ones(
    family: Family, task: Task, bases: dict[Family, BaseModel]
):
    labels = max(1, head_outputs(task, 3))
    job = Job(bases[family], candidate(), task, labels, "cpu", True, LOOPS["autopeft"], SHAPES)
    fake, true = faked(job), real(job)
    for name in LASTING:
        assert totals(fake)[name] == totals(true)[name]
    # Losses of numbers and reads of ends of text pass a scalar more on a CPU.
    assert totals(fake)["TEMPORARY"] == pytest.approx(totals(true)["TEMPORARY"], abs=FEW_SCALARS)
    assert peak_of(fake) == pytest.approx(peak_of(true), abs=FEW_SCALARS)
    assert fake.parameters == true.parameters


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_plan_of_a_task_is_traced(family: Family, task: Task, bases: dict[Family, BaseModel]):
    request = TraceRequest(
        base=bases[family],
        candidate=candidate(),
        task=task,
        labels=max(1, head_outputs(task, 3)),
        rows=2,
        length=16,
        target="cuda",
        general=False,
    )
    pattern = trace(request)
    assert pattern.depth >= bases[family].layers
    assert len(pattern.later.block_size) > 0
