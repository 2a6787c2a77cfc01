"""What every test shares: property tests without deadlines, since shared machines stall."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fedsus", deadline=None, print_blob=True)
settings.load_profile("fedsus")
