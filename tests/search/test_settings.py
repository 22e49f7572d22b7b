"""The environment decides where runs are kept and which cluster works."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from search.settings import Settings


def test_without_an_environment_runs_are_kept_here_and_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNEFRONT_RUNS", raising=False)
    monkeypatch.delenv("PRUNEFRONT_RAY_ADDRESS", raising=False)
    assert (Settings().runs, Settings().ray_address) == (Path("runs"), "")


def test_the_environment_is_read_under_our_prefix_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "elsewhere")
    monkeypatch.setenv("PRUNEFRONT_RUNS", "/scratch/runs")
    monkeypatch.setenv("PRUNEFRONT_RAY_ADDRESS", "ray://head:10001")
    assert (Settings().runs, Settings().ray_address) == (Path("/scratch/runs"), "ray://head:10001")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEFRONT_RUNS", "")
    assert Settings().runs == Path("runs")


def test_a_token_is_read_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEFRONT_TOKEN", "secret")
    assert Settings().token == "secret"
    assert "secret" not in repr(Settings())


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().runs = Path("elsewhere")
