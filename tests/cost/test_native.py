"""Tests of autopeft/cost/native.py: compiled code does what Python does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from autopeft.cost.native import compile_modules

SOURCE = """
STEP, FAR = 3, 1 << 40

def _sum(m, first, end):
    total = 0
    for i in range(first, end):
        total += m[i]
    return total

def _deep(m, level):
    if level == 0:
        return STEP
    elif level > 90:
        return -1
    return _deep(m, level - 1) + (1 if level > 2 and level != 5 or level == 1 else 0)

def run(m):
    i, j = 0, 9
    while i < j:
        i, j = i + 1, j - 1
    m[0] = i * 10 + j
    m[3:6] = m[2:5]
    m[8:10] = m[9:11]
    m[11] = _sum(m, 0, 8)
    m[12] = max(min(m[11], FAR), ~m[1]) // STEP
    m[13] = _deep(m, 12) - _deep(m, 91)
    m[14] = not m[0] < 4
    m[15] = (m[1] << 3) - (m[2] >> 1)
    m[16] += FAR if m[1] == 0 or m[m[1]] > 0 else -FAR
    return m[12]
"""


def module(tmp_path: Path, source: str) -> ModuleType:
    file = tmp_path / "written.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("written", file)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_compiled_code_does_what_python_does(tmp_path: Path):
    written = module(tmp_path, SOURCE)
    memory = np.arange(5, 25, dtype=np.int64) % 11
    plain = memory.tolist()
    assert compile_modules([written], "run")(memory.ctypes.data) == written.run(plain)
    assert memory.tolist() == plain


@pytest.mark.parametrize(
    "statement",
    ["m[0] = m[1] / 2", "m[0] = [1]", "import os", "m[0] = m.x", "return 1 < m[0] < 3", "m[0] = 0.5"],
)
def test_what_is_not_of_the_part_is_refused(tmp_path: Path, statement: str):
    written = module(tmp_path, f"def run(m):\n    {statement}\n")
    with pytest.raises(NotImplementedError):
        compile_modules([written], "run")
