"""Settings of all tests: properties run without a deadline, and draw the same examples every time.

``HYPOTHESIS_PROFILE=search`` draws new and more examples, to look for what the fixed ones do not show.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile("fixed", deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW)
settings.register_profile("search", deadline=None, max_examples=1000, database=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
