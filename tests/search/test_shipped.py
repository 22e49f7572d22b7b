"""Every profile that is shipped is whole, was measured, and predicts networks that nothing was fitted to."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles import read_profile
from latency_models import validate
from search.devices import SHIPPED

PROFILES = sorted(SHIPPED.glob("*.parquet"))


def test_there_is_one() -> None:
    assert PROFILES


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_keeps_what_its_validation_says(path: Path) -> None:
    profile = read_profile(path)
    assert (profile.device.name, profile.device.modelled) == (path.stem, False)
    assert "source" not in profile.device.versions
    found = validate(profile)
    assert found
    assert found.networks >= 20
    assert found.mean_error < 0.03
    assert found.within_10 == 1.0
