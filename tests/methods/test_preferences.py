"""Every method that claims preference tuning can be put aside: what is left is the model as it was."""

from __future__ import annotations

import pytest
import torch
from toys import backbone, base_of, job_of

from autopeft.methods.adapt import adapt
from autopeft.methods.registry import METHODS, learns

CLAIMING = [name for name, spec in METHODS.items() if learns(spec, "decoder", "dpo")]
QUICK = ("bottleneck", "lora", "lst", "prefix_tuning", "prompt_tuning")


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CLAIMING],
)
def test_a_trained_adapter_that_is_put_aside_leaves_the_model_as_it_was(method: str) -> None:
    job = job_of(method, "decoder")._replace(task="dpo", base=base_of(method, "decoder"))
    plain = backbone(job).eval()
    ids = torch.randint(4, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = plain(input_ids=ids).logits.clone()
    model = adapt(plain, job.candidate, "dpo").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
        with model.disable_adapter():
            aside = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -9:]
    assert torch.allclose(aside, before, atol=1e-5)


def test_most_methods_of_decoders_tune_preferences() -> None:
    assert len(CLAIMING) >= 45
