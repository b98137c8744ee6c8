"""Names of the files that autopeft writes into the directories that others get."""

from __future__ import annotations

MANIFEST, CARD, REFERENCE, EVALUATION = "autopeft.json", "README.md", "reference.json", "evaluation.json"
"""Of a bundle."""
ADAPTER_CONFIG, BASE_FIELD = "adapter_config.json", "base_model_name_or_path"
"""Of peft's: the file that says what an adapter is, and its field that says what it is trained on."""
TRAIN, VALIDATION, TEST, DATASETS = "train.jsonl", "validation.jsonl", "test.jsonl", "dataset_info.json"
"""Beside a recipe; they do not say what they are of."""
MARK = "written by autopeft"
"""In the first line of each other file of a recipe."""
