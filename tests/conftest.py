"""What all tests share: the real data beside the checkout, when it is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no clock: the machines that run this are shared.
settings.register_profile("alpaca", derandomize=True, deadline=None)
settings.load_profile("alpaca")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real instruction files; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout")
    return folder
