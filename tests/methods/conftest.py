"""Make the contract of methods, and the comparison of recordings that it uses, importable here."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cost" / "tracing")]
