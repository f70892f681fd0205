"""How many examples: a few hundred a property for a developer, thousands with CI set (about 28,000 in all)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_BASE = settings(
    deadline=None,
    database=None,  # nothing is left behind in the tree
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.register_profile("developer", _BASE, max_examples=200)
settings.register_profile("ci", _BASE, max_examples=2500)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
