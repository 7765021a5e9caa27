"""Settings of the data tests."""

from __future__ import annotations

from hypothesis import settings

# An example may take long on a busy machine.
settings.register_profile("data", deadline=None)
settings.load_profile("data")
