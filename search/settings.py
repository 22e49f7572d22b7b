"""Settings of this machine, from the environment: where runs are kept, who works for them, and how much."""

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

    database: str = ""
    """The URL of the database that holds the store; empty is a file in the folder of runs."""

    artifacts: str = ""
    """A URL below which reports and exports are copied by the service, such as `s3://bucket/prefix`."""

    ray_address: str = ""
    """The Ray cluster to use; empty starts one on this machine."""

    server: str = ""
    """The server that commands are for, by the name of its login or its URL: its jobs, and its agents'
    boards. Empty is this machine."""

    token: Annotated[str, Field(repr=False)] = ""
    """With which to talk to it, where it was not logged in to."""

    quota_queued_jobs: Annotated[int, Field(ge=0)] = 1000
    """How many jobs a user of the service may have in the queue, where an admin has not said otherwise;"""

    quota_running_jobs: Annotated[int, Field(ge=0)] = 2
    """how many of them may run at once;"""

    quota_worker_minutes: Annotated[float, Field(ge=0)] = 43_200
    """and how many minutes of workers, or of GPUs, they may take in all: one for thirty days."""

    quota_stored_bytes: Annotated[int, Field(ge=0)] = 256 * 2**30
    """How much a user may keep there of models and data."""

    max_upload_bytes: Annotated[int, Field(gt=0)] = 16 * 2**30
    """How large a file may be that is sent to the service,"""

    max_data_bytes: Annotated[int, Field(gt=0)] = 64 * 2**30
    """and what data may take unpacked."""
