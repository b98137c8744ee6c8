from __future__ import annotations

import math
from pathlib import Path

from autopeft.report.facts import StudyFacts
from autopeft.report.text import facts_to_markdown, write_facts


def test_facts_come_back_from_their_file(facts: StudyFacts, tmp_path: Path) -> None:
    path = write_facts(facts, tmp_path / "deep" / "facts.json")
    assert StudyFacts.read(path) == facts


def test_facts_without_a_number_come_back_too(facts: StudyFacts, tmp_path: Path) -> None:
    unknown = facts.scores[0].model_copy(update={"low": -math.inf, "high": math.inf})
    strange = facts.model_copy(update={"scores": (unknown,)})
    assert StudyFacts.read(write_facts(strange, tmp_path / "facts.json")) == strange


def test_markdown_holds_decision_reasons_and_scores(facts: StudyFacts, tmp_path: Path) -> None:
    text = write_facts(facts, tmp_path / "facts.md").read_text()
    assert facts.decision in text
    assert all(reason in text for reason in facts.reasons)
    assert "| LoRA default | lora r=8 query+value lr=0.001 | 0.830 |" in text


def test_markdown_keeps_hostile_names_in_their_cell(facts: StudyFacts) -> None:
    hostile = facts.scores[0].model_copy(update={"label": "a | b\n<script>"})
    text = facts_to_markdown(facts.model_copy(update={"scores": (hostile,)}))
    assert "| winner | a \\| b &lt;script> |" in text
