"""The linear probe is one on the base model as its competitors have it."""

from __future__ import annotations

import numpy as np
import pytest

from autopeft.space.candidate import Training
from autopeft.train.probe import linear_probe


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_the_probe_reads_the_features_of_a_base_that_is_stored_as_asked(
    scheme, encoder_with_weights, ratings
) -> None:
    pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
    training = Training(max_length=16)
    whole, packed = (
        linear_probe(encoder_with_weights, ratings, training, quantization=each)[1].facts[:, 1]
        for each in ("none", scheme)
    )
    assert not np.array_equal(whole, packed)
    assert np.corrcoef(whole, packed)[0, 1] > 0.5
