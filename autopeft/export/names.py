"""Names of the files that autopeft writes into the directories that others get."""

from __future__ import annotations

MANIFEST, CARD, REFERENCE, EVALUATION = "autopeft.json", "README.md", "reference.json", "evaluation.json"
"""Of a bundle."""
TRAIN, VALIDATION, TEST, DATASETS = "train.jsonl", "validation.jsonl", "test.jsonl", "dataset_info.json"
"""Beside a recipe; they do not say what they are of."""
MARK = "written by autopeft"
"""In the first line of each other file of a recipe."""
