"""Looking at the table of a device: its families and stairs, whether it is whole, and what moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles import Device, OpSpec, Profile, read_profile, write_profile
from hwprofiles.errors import RequestError
from latency_models import validate
from latency_models.compare import Comparison, compare
from latency_models.imports import Imported, import_profile
from latency_models.stairs import Stairs, operators, stairs
from latency_models.validate import between_halves, repeatability
from search.devices import disturbed, find_profile, network_facts, open_table, profile_path
from search.job import DeviceChoice


def show(name: str, folder: Path) -> dict[str, Any]:
    """The families of kernels in a profile, its whole networks, and the operators whose stairs it knows."""
    profile = read_profile(find_profile(folder, name))
    grouped: dict[OpSpec, list[OpSpec]] = defaultdict(list)
    for kernel in profile.kernels:
        grouped[kernel.family].append(kernel)
    return {
        "device": profile.device.name,
        "modelled": profile.device.modelled,
        "families": [_family(family, kernels, profile) for family, kernels in sorted(grouped.items())],
        "networks": network_facts(profile),
        "operators": [str(spec) for spec in operators(profile)],
    }


def import_table(files: Sequence[Path], form: str, device: Device, folder: Path) -> tuple[Path, Imported]:
    """Make a profile of files that others measured; returns where it is, and what came of them.

    Raises:
        RequestError: the name is taken, the form is not known, no device can be described so, or a file
            cannot be read.
        ProfileError: a file is damaged, or a row is impossible or there twice.
    """
    path = profile_path(folder, device.name)
    if device.name == (here := DeviceChoice().name):
        raise RequestError(f"{here!r} is what this machine is called; choose another --device name")
    if path.exists():
        raise RequestError(f"there is a profile {path} already; choose another --device name or remove it")
    imported = import_profile(files, form, device)
    write_profile(imported.profile, path)
    return path, imported


def _family(family: OpSpec, kernels: list[OpSpec], profile: Profile) -> dict[str, Any]:
    times_ms = [profile.kernels[kernel].summary().latency_ms for kernel in kernels]
    return {
        "family": str(family).replace("0->0 ", ""),
        "kernels": len(kernels),
        "in_channels": sorted({kernel.in_channels for kernel in kernels}),
        "out_channels": sorted({kernel.out_channels for kernel in kernels}),
        "latency_ms": [min(times_ms), max(times_ms)],
    }


def show_operator(name: str, folder: Path, number: int) -> list[Stairs]:
    """The stairs of one operator, by its number in what `show` lists.

    Raises:
        RequestError: there is no operator of that number.
    """
    profile = read_profile(find_profile(folder, name))
    listed = operators(profile)
    if not listed:
        raise RequestError(f"profile {name!r} holds kernels and no networks, so no operators to show")
    if not 1 <= number <= len(listed):
        raise RequestError(
            f"profile {name!r} has no operator {number}; `prunefront lut show {name}` lists those from 1 to "
            f"{len(listed)}"
        )
    return stairs(profile, listed[number - 1])


def stairs_facts(found: Stairs) -> dict[str, Any]:
    return {
        "operator": str(found.operator),
        "axis": found.axis,
        "widths": found.widths.tolist(),
        "latency_ms": found.latency_ms.tolist(),
        "measured": found.measured.tolist(),
        "modelled": found.modelled,
        "cliffs": found.widths[found.cliffs].tolist(),
    }


def check(name: str, folder: Path) -> dict[str, Any]:
    """Read all of a profile, make its tables, and say which measurements were disturbed.

    Raises:
        ProfileError: the file is damaged, or makes no table.
        NotMeasuredError: a network runs a kernel that is not in it.
    """
    path = find_profile(folder, name)
    profile = read_profile(path)
    networks = (*profile.networks, *profile.held_out)
    models = {network.model for network in networks}
    for model in models:
        open_table(profile, model)
    found = validate(profile)
    return {
        "profile": str(path),
        "device": profile.device.name,
        "kernels": len(profile.kernels),
        "families": len({kernel.family for kernel in profile.kernels}),
        "networks": len(networks),
        "models": len(models),
        "repeatability": {
            "kernels": float(np.mean([between_halves(rounds) for rounds in profile.kernels.values()])),
            "networks": repeatability(networks) if networks else None,
        },
        "validation": asdict(found) if found else None,
        "restless": disturbed(profile),
    }


def diff(before: str, after: str, folder: Path) -> tuple[dict[str, list[str]], Comparison]:
    """What of two devices differs (key: before, after), and what moved.

    Raises:
        RequestError: the profiles have nothing in common.
    """
    old, new = (read_profile(find_profile(folder, name)) for name in (before, after))
    found = compare(old, new)
    if not found.shared:
        raise RequestError(
            f"profiles {before!r} and {after!r} share no kernel; measure both for one and the same model"
        )
    keys = [key for key in type(old.device).__slots__ if key != "name"]
    pairs = {key: [_told(getattr(profile.device, key)) for profile in (old, new)] for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}, found


def _told(value: Any) -> str:
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
