"""Import this module to make peft know autopeft's own adapters.

import autopeft.adapters
from peft import AutoPeftModelForSequenceClassification
model = AutoPeftModelForSequenceClassification.from_pretrained("bundle")
"""

from __future__ import annotations

from autopeft.methods import tuners

tuners.register()
