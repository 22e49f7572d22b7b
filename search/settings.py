"""Settings of this machine, from the environment: where runs are kept and which cluster works for them."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from variables with the prefix PRUNEFRONT_, such as PRUNEFRONT_RUNS."""

    model_config = SettingsConfigDict(env_prefix="PRUNEFRONT_", frozen=True)

    runs: Path = Path("runs")
    """The folder that holds the store and one folder per job."""

    ray_address: str = ""
    """The Ray cluster to use; empty starts one on this machine."""
