from __future__ import annotations

import json

import pytest

from autopeft.methods.backbone import configure, whole_config
from autopeft.space.candidate import Training
from autopeft.workload.models import find_model


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "gemma-3-4b-pt", "Qwen2-VL-2B"])
def test_a_configuration_is_made_without_writing_into_the_catalogue(name: str) -> None:
    base = find_model(name)
    before = json.dumps(base.config)
    whole_config(base)
    configure(base, "sft", 2, Training())
    assert json.dumps(base.config) == before
