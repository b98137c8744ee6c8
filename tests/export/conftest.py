"""Make the tiny knobs that the contract of methods uses importable here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cost" / "tracing"))
