from __future__ import annotations

import math
from pathlib import Path

from autopeft.report.facts import StudyFacts
from autopeft.report.text import facts_to_markdown


def test_facts_come_back_from_their_file(facts: StudyFacts, tmp_path: Path) -> None:
    facts.keep(tmp_path / "facts.json")
    assert StudyFacts.read(tmp_path / "facts.json") == facts


def test_facts_without_a_number_come_back_too(facts: StudyFacts, tmp_path: Path) -> None:
    unknown = facts.scores[0].model_copy(update={"low": -math.inf, "high": math.inf})
    strange = facts.model_copy(update={"scores": (unknown,)})
    strange.keep(tmp_path / "facts.json")
    assert StudyFacts.read(tmp_path / "facts.json") == strange


def test_markdown_holds_decision_reasons_and_scores(facts: StudyFacts) -> None:
    text = facts_to_markdown(facts)
    assert facts.decision in text
    assert all(reason in text for reason in facts.reasons)
    assert "| LoRA default | lora r=8 query+value lr=0.001 | 0.830 |" in text


def test_markdown_keeps_hostile_names_in_their_cell(facts: StudyFacts) -> None:
    hostile = facts.scores[0].model_copy(update={"label": "a | b\n<script>"})
    text = facts_to_markdown(facts.model_copy(update={"scores": (hostile,)}))
    assert "| winner | a \\| b &lt;script> |" in text
