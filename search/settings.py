"""Settings of this machine, from the environment: where runs are kept, and who works for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from variables with the prefix PRUNEFRONT_, such as PRUNEFRONT_RUNS; an empty one is none."""

    model_config = SettingsConfigDict(env_prefix="PRUNEFRONT_", env_ignore_empty=True, frozen=True)

    runs: Path = Path("runs")
    """The folder that holds the store and one folder per job."""

    ray_address: str = ""
    """The Ray cluster to use; empty starts one on this machine."""

    server: str = ""
    """The server whose agents measure on other boards; empty measures on this machine."""

    token: Annotated[str, Field(repr=False)] = ""
    """With which to talk to it."""
