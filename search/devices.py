"""Devices that have a profile: those measured here, under `runs/devices/`, and those that are shipped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import hwprofiles
from hwprofiles import Device, OpGraph, Profile, open_runtime, read_profile
from hwprofiles.errors import ProfileError, PrunefrontError, RequestError, nearest
from hwprofiles.wire import LEASE_S, Announcement
from latency_models import LatencyTable, validate
from search.job import DeviceChoice
from search.job.table import NAME, NAME_TOLD

SHIPPED = Path(hwprofiles.__file__).parent / "shipped"

RESTLESS = 0.25
"""Spread of the rounds from which a measurement is named as one that was disturbed."""


def profile_path(folder: Path, name: str) -> Path:
    """Where the profile of a device of that name is, or would be, kept.

    Raises:
        RequestError: the name cannot be one of a file.
    """
    if not re.fullmatch(NAME, name):
        raise RequestError(f"a device cannot be called {name!r}; allowed: {NAME_TOLD}")
    return folder / f"{name}.parquet"


def find_profile(folder: Path, name: str) -> Path:
    """The profile of a device: the one measured here before a shipped one, or a file that is named itself.

    Raises:
        RequestError: there is none, or none can be called so.
    """
    if name.endswith(".parquet"):
        return Path(name)
    known = dict(known_profiles(folder))
    if name not in known:
        profile_path(folder, name)
        told = f"; {nearest(name, known)}" if known else ""
        raise RequestError(
            f"device {name!r} has no profile in {folder}{told}; measure one with `prunefront profile "
            f"--device {name} --model job.toml`"
        )
    return known[name]


def name_in_file(profile: Profile, path: Path, taken: Iterable[str]) -> str:
    """What the device of a profile's file is called: as the profile has it, else as the file is.

    Args:
        taken: names that mean other devices; of them it gets none, and neither one that no file can have.

    Raises:
        RequestError: both names are such.
    """
    others = {name.lower() for name in taken}
    for name in (profile.device.name, path.stem):
        if re.fullmatch(NAME, name) and name.lower() not in others:
            return name
    raise RequestError(
        f"the profile {path} is of {profile.device.name!r}, and neither that nor its file's name can be one "
        f"beside {', '.join(taken)}; copy the file under another name: {NAME_TOLD}"
    )


def find_like(folder: Path, name: str, device: Device) -> Profile:
    """The profile of another device that shows what need not be measured of `device`.

    Raises:
        RequestError: there is none of that name, or other kernels run on its device.
    """
    first = read_profile(find_profile(folder, name))
    asked, own = _rules(device), _rules(first.device)
    if differing := ", ".join(
        f"{key} {own[key]!r}, not {asked[key]!r}" for key in asked if own[key] != asked[key]
    ):
        fitting = ", ".join(alike(folder, device))
        raise RequestError(
            f"profile {name!r} is one of {differing}, and says nothing of the kernels of {device.name!r}; "
            + (f"those that do: {fitting}" if fitting else "none here does: leave out --like")
        )
    return first


def alike(folder: Path, device: Device) -> list[str]:
    """The names of other devices whose profiles hold kernels such as run on `device`."""
    found = []
    for name, path in known_profiles(folder):
        with suppress(ProfileError):
            if name != device.name and _rules(read_profile(path).device) == _rules(device):
                found.append(name)
    return found


def _rules(device: Device) -> dict[str, Any]:
    """What decides which kernels operators become: equal of devices whose `lowering_of` is."""
    keys = ("runtime", "precision", "channel_step")
    return {key: getattr(device, key) for key in keys} | {"source": device.versions.get("source")}


def known_profiles(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files, each name once."""
    found = {path.stem: path for place in (SHIPPED, folder) for path in sorted(place.glob("*.parquet"))}
    yield from sorted(found.items())


def open_table(profile: Profile, model: OpGraph) -> LatencyTable:
    """The table of a profile for one model, calibrated on that model's networks where it holds some.

    Raises:
        RequestError: the profile makes no table, or its runtime is not known.
    """
    return LatencyTable.from_profile(calibrating(profile, model))


def calibrating(profile: Profile, model: OpGraph) -> Profile:
    """What a profile holds of one model, or all of it where it holds no network of that."""
    own = profile.of_model(model)
    return own if own.networks else profile


def fitting_profile(folder: Path, device: Device, model: OpGraph, dense_name: str) -> Profile | None:
    """What a profile measured here holds of one model, if it is of this very device and knows the model.

    Args:
        dense_name: what the dense model is called among a profile's networks.
    """
    for _, path in known_profiles(folder):
        with suppress(RequestError):
            profile = read_profile(path)
            own = profile.of_model(model)
            networks = tuple(n for n in own.networks if n.name != dense_name or n.graph == model)
            dense = [n for n in networks if n.name == dense_name]
            if profile.device.identity == device.identity and dense:
                return replace(own, networks=networks, device=replace(profile.device, name=device.name))
    return None


def list_devices(folder: Path, agents: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """This machine, every profile with its age and its error, and each way in which an agent runs networks.

    What cannot be told of, such as a damaged profile, says why under "wrong".

    Args:
        agents: as a server tells of them.
    """
    choice = DeviceChoice()
    runtime = open_runtime(choice.runtime, choice.precision)
    found = [_facts(runtime.describe(name=choice.name, batch=choice.batch, threads=choice.threads))]
    names = set()
    for name, path in known_profiles(folder):
        try:
            facts, created = _profile_facts(path, path.stat().st_mtime_ns)
            age_days = (datetime.now(UTC) - created).total_seconds() / 86400
            found.append({**facts, "device": name, "profile": str(path), "age_days": age_days})
            names.add(name)
        except PrunefrontError as error:
            found.append({"device": name, "profile": str(path), "wrong": str(error)})
    here = found if choice.name not in names else found[1:]
    return [*here, *(item for agent in agents for item in _agent_facts(agent))]


def model_numbers(profile: Profile) -> dict[OpGraph, int]:
    """The outlines of a profile's models, numbered from 1 in the order in which they were measured."""
    networks = (*profile.networks, *profile.held_out)
    return {model: i for i, model in enumerate(dict.fromkeys(net.model for net in networks), 1)}


def disturbed(profile: Profile) -> list[dict[str, Any]]:
    """The measurements whose rounds spread far, with that spread, the worst first."""
    numbers = model_numbers(profile)
    timed = {str(kernel): rounds for kernel, rounds in profile.kernels.items()} | {
        f"network {net.name!r} of model {numbers[net.model]}": net.rounds
        for net in (*profile.networks, *profile.held_out)
    }
    spreads = {name: rounds.summary().spread for name, rounds in timed.items()}
    restless = sorted((name for name in spreads if spreads[name] > RESTLESS), key=lambda name: -spreads[name])
    return [{"name": name, "spread": spreads[name]} for name in restless]


def network_facts(profile: Profile) -> list[dict[str, Any]]:
    """The whole networks of a profile: what each takes, and its energy by rail where the board told it."""
    numbers = model_numbers(profile)
    roles = [(net, False) for net in profile.networks] + [(net, True) for net in profile.held_out]
    return [
        {
            "model": numbers[net.model],
            "network": net.name,
            "held_out": held_out,
            "latency_ms": net.rounds.summary().latency_ms,
            "energy_mj": net.mean_energy_mj,
        }
        for net, held_out in roles
    ]


def _facts(device: Device) -> dict[str, Any]:
    return {
        "device": device.name,
        "profile": None,
        "board": device.board,
        "power_mode": device.power_mode,
        "runtime": device.runtime,
        "precision": device.precision,
        "batch": device.batch,
        "threads": device.threads,
        "versions": dict(device.versions),
        "identity": device.identity,
        "this_machine": True,
    }


def _agent_facts(agent: Mapping[str, Any]) -> list[dict[str, Any]]:
    announced = Announcement.model_validate({key: agent[key] for key in Announcement.model_fields})
    heard = {"seen_s_ago": agent["seen_s_ago"], "alive": agent["seen_s_ago"] < LEASE_S}
    found = [{**_facts(device), "this_machine": False, **heard} for device in announced.devices]
    return found or [{"device": agent["name"], "wrong": "this agent can open no runtime on its board"}]


@lru_cache(maxsize=64)
def _profile_facts(path: Path, changed_ns: int) -> tuple[dict[str, Any], datetime]:
    """What a profile written at `changed_ns` says, and when it was made; validating it takes seconds."""
    profile = read_profile(path)
    here, found = None, None
    with suppress(RequestError):  # a runtime that is not installed here runs elsewhere
        runtime = open_runtime(profile.device.runtime, profile.device.precision)
        here = runtime.describe(name=path.stem, batch=profile.device.batch, threads=profile.device.threads)
    with suppress(RequestError):  # nor has a profile of a runtime that is not known a table
        found = validate(profile)
    facts = {
        **_facts(profile.device),
        "shipped": path.parent == SHIPPED,
        "this_machine": here is not None and here.identity == profile.device.identity,
        "created": profile.created.isoformat(timespec="seconds"),
        "kernels": len(profile.kernels),
        "networks": network_facts(profile),
        "models": len({network.model for network in profile.networks}),
        "mean_error": found and found.mean_error,
        "validated_on": found.networks if found else 0,
    }
    return facts, profile.created
