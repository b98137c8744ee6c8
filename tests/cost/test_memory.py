"""Tests of autopeft/cost/memory.py."""

from __future__ import annotations

from dataclasses import replace

from autopeft.cost.loops import LOOPS
from autopeft.cost.memory import allocated_peak, estimate_memory, replayed
from autopeft.cost.tape import Category, Phase, Tape
from autopeft.hardware.profile import HardwareProfile
from autopeft.units import MIB


def test_the_peak_is_where_most_is_held_and_its_parts_sum_to_it(tape: Tape):
    peak = allocated_peak(tape)
    assert peak.allocated_bytes == (100 + 8 + 40 + 8) * MIB
    assert peak.phase is Phase.BACKWARD
    assert peak.parts.total == peak.allocated_bytes
    assert peak.parts.weights == 100 * MIB
    assert peak.parts.activations == 40 * MIB
    assert peak.parts.gradients == 16 * MIB


def test_working_copies_of_the_optimizer_count_as_optimizer(tape: Tape):
    sizes = tape.block_bytes.copy()
    sizes[6] = 500 * MIB
    peak = allocated_peak(replace(tape, block_bytes=sizes))
    assert peak.phase is Phase.OPTIMIZER
    assert peak.parts.optimizer == 504 * MIB
    assert peak.parts.total == peak.allocated_bytes


def test_what_is_reserved_covers_what_is_allocated_and_the_workspaces(tape: Tape):
    reserved = replayed(tape, workspace_bytes=20 * MIB).peak_reserved_bytes
    assert reserved >= allocated_peak(tape).allocated_bytes + 2 * 20 * MIB


def test_a_gpu_shows_its_context_and_what_is_reserved(tape: Tape, gpu: HardwareProfile):
    memory = estimate_memory(replace(tape, target="cuda"), gpu)
    assert memory.device_peak_bytes == gpu.context_bytes + memory.reserved_peak_bytes
    assert memory.low_bytes < memory.device_peak_bytes < memory.high_bytes


def test_the_workspace_is_larger_from_hopper_on(tape: Tape, gpu: HardwareProfile):
    hopper = gpu.model_copy(update={"device_name": "NVIDIA H100 80GB HBM3"})
    cuda = replace(tape, target="cuda")
    assert estimate_memory(cuda, gpu).reserved_peak_bytes < estimate_memory(cuda, hopper).reserved_peak_bytes


def test_a_cpu_keeps_what_is_freed_in_its_heap(tape: Tape, cpu: HardwareProfile):
    memory = estimate_memory(tape, cpu)
    assert memory.reserved_peak_bytes == memory.allocated_peak_bytes
    # Both gradients are from the heap; weights are not, nor is what is above 32 MiB. No tensor explains
    # 20 MiB.
    kept = memory.device_peak_bytes - cpu.context_bytes - memory.allocated_peak_bytes - 20 * MIB
    assert 0.3 * 16 * MIB < kept < 2.0 * 16 * MIB


def test_on_a_cpu_rows_of_several_lengths_leave_more_where_tensors_are_mapped(
    tape: Tape, cpu: HardwareProfile
):
    def above(lengths: tuple[int, ...]) -> int:
        memory = estimate_memory(replace(tape, lengths=lengths), cpu)
        return memory.high_bytes - memory.device_peak_bytes

    assert above((8, 4)) == above((8, 8)) + 3 * 32 * MIB


def test_every_guess_widens_the_band(tape: Tape, cpu: HardwareProfile):
    certain, guessed = estimate_memory(tape, cpu), estimate_memory(tape, cpu, guesses=2)
    assert guessed.low_bytes < certain.low_bytes < certain.high_bytes < guessed.high_bytes


def test_every_category_has_a_part(tape: Tape):
    for category in Category:
        kinds = tape.block_category.copy()
        kinds[1:] = category
        assert allocated_peak(replace(tape, block_category=kinds)).parts.total > 100 * MIB


def test_without_fragmentation_a_gpu_needs_no_more(tape: Tape, gpu: HardwareProfile):
    cuda = replace(tape, target="cuda")
    plain = replayed(cuda, unfragmented=True).peak_reserved_bytes
    assert plain <= replayed(cuda).peak_reserved_bytes
    assert estimate_memory(cuda, gpu).low_bytes <= gpu.context_bytes + plain


def test_parts_sum_to_the_peak_that_the_allocator_holds(tape: Tape, gpu: HardwareProfile):
    memory = estimate_memory(replace(tape, target="cuda"), gpu)
    assert memory.parts.total == memory.allocated_peak_bytes <= memory.reserved_peak_bytes


def test_a_loop_that_is_less_known_has_a_wider_band(tape: Tape, gpu: HardwareProfile):
    def width(loop: str) -> int:
        memory = estimate_memory(replace(tape, target="cuda"), gpu, LOOPS[loop])
        return memory.high_bytes - memory.low_bytes

    assert width("autopeft") < width("trl") < width("trainer-2023")
