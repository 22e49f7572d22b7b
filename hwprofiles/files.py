"""Profiles on disk: Parquet, one row per measured thing, with who measured what in the file's own metadata.

A profile is written whole or not at all. Whatever is wrong with one that is read is said with file and row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AllowInfNan, AwareDatetime, BaseModel, ConfigDict, TypeAdapter

from hwprofiles.device import Device
from hwprofiles.disk import whole_file
from hwprofiles.errors import ProfileError
from hwprofiles.foreign import parse_json, said
from hwprofiles.ops import OpGraph, OpSpec
from hwprofiles.parquet import read_parquet
from hwprofiles.samples import Rounds

FORMAT = 2
_HEADER = b"prunefront.profile"
_MOST_BYTES = 2**29
"""Of a profile unpacked: some 10 000 kernels, each measured in as many passes as `profile` allows."""
_KERNEL, _NETWORK = TypeAdapter(OpSpec), TypeAdapter(OpGraph)
_DAMAGED = (LookupError, OverflowError, TypeError, ValueError)
"""What reading another form than the one written may raise."""
_SCHEMA = pa.schema(
    {
        "entry": pa.string(),  # "kernel", "network" or "held out"
        "name": pa.string(),
        "graph": pa.string(),  # JSON: of a kernel its OpSpec, of a network its OpGraph
        "passes": pa.int32(),
        "rounds": pa.int32(),
        "times_ms": pa.list_(pa.float64()),  # passes x rounds x runs, flattened
    }
)


class _Header(BaseModel):
    """What a file says of all of its rows. `energy_mj` is by the number of a network's row.

    `shorter` is by the row of a network that lacks blocks of its model: the row of one that has all of them.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, str_max_length=2000)

    format: int
    created: AwareDatetime
    device: Device
    energy_mj: dict[str, list[dict[str, Annotated[float, AllowInfNan(True)]]]] = {}
    shorter: dict[str, int] = {}
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """A whole network that was timed, with the operators that it runs.

    `energy_mj` is what one inference took by rail, in each pass in which the board told it. `whole` is the
    outline of its model where the network lacks some of that model's blocks, and with them operators.
    """

    name: str
    graph: OpGraph
    rounds: Rounds
    energy_mj: tuple[Mapping[str, float], ...] = ()
    whole: OpGraph | None = None

    @property
    def model(self) -> OpGraph:
        """The outline of the model that it is a candidate of."""
        return self.whole or self.graph.outline

    @property
    def mean_energy_mj(self) -> dict[str, float]:
        """Of one inference, by rail; what the board did not tell is absent."""
        told: dict[str, list[float]] = defaultdict(list)
        for each in self.energy_mj:
            for rail, mj in each.items():
                told[rail].append(mj)
        return {rail: sum(passes) / len(passes) for rail, passes in told.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured on one device: kernels, whole networks to calibrate against, and some to prove it on.

    Nothing may be fitted to those that are `held_out`.
    """

    device: Device
    kernels: Mapping[OpSpec, Rounds]
    networks: tuple[MeasuredNetwork, ...]
    created: datetime
    held_out: tuple[MeasuredNetwork, ...] = ()

    def of_model(self, graph: OpGraph) -> Self:
        """All kernels, and only those networks that are candidates of one model."""
        own = graph.outline
        return replace(
            self,
            networks=tuple(net for net in self.networks if net.model == own),
            held_out=tuple(net for net in self.held_out if net.model == own),
        )


def write_profile(profile: Profile, path: Path) -> None:
    """Write `profile` to `path`, replacing what was there only once everything is on disk.

    Raises:
        ProfileError: a name in it is no text, and nothing is written.
    """
    rows = [_row("kernel", str(spec), spec, rounds) for spec, rounds in profile.kernels.items()]
    networks = (*profile.networks, *profile.held_out)
    numbered = list(enumerate(networks, len(rows)))
    energy_mj = {str(row): net.energy_mj for row, net in numbered if net.energy_mj}
    complete = {net.model: row for row, net in numbered if net.whole is None}
    shorter = {str(row): complete[net.model] for row, net in numbered if net.whole in complete}
    rows += [_row("network", net.name, net.graph, net.rounds) for net in profile.networks]
    rows += [_row("held out", net.name, net.graph, net.rounds) for net in profile.held_out]
    header: dict[str, Any] = {
        "format": FORMAT,
        "created": profile.created.astimezone(UTC).isoformat(),
        "device": asdict(profile.device),
    }
    # By row, each where there is any: no columns of their own, so that profiles from before are still read.
    if energy_mj:
        header["energy_mj"] = energy_mj
    if shorter:
        header["shorter"] = shorter
    header["sha256"] = _sha256(header, rows)
    try:
        told = json.dumps(header, ensure_ascii=False).encode()
        table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_HEADER: told}))
    except UnicodeEncodeError as error:
        raise ProfileError(
            f"profile {path} cannot be written: {error.object[:80]!r} is no text in UTF-8; rename it"
        ) from None
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_profile(path: Path) -> Profile:
    """Read a profile and check all of it.

    Raises:
        ProfileError: the file is missing, damaged, of another format version, or holds an impossible row.
    """
    try:
        table = read_parquet(path, _MOST_BYTES)
        told = (table.schema.metadata or {})[_HEADER]
        stored = parse_json(told)
        if stored["format"] != FORMAT:
            found = str(stored["format"])[:40]
            raise ProfileError(
                f"profile {path} has format {found}, and this version reads format {FORMAT}; "
                "measure the device again"
            )
        if not table.schema.equals(_SCHEMA):
            raise ProfileError(f"profile {path} does not have the columns of format {FORMAT}; measure again")
        header = _Header.model_validate_json(told)
        rows = table.to_pylist()
        kernels, networks = _parse(rows, header, path)
        if stored.pop("sha256") != _sha256(stored, rows):
            raise ProfileError(
                f"profile {path} was changed after it was written (sha256 differs); measure again"
            )
        return Profile(
            device=header.device,
            kernels=kernels,
            networks=tuple(networks["network"]),
            held_out=tuple(networks["held out"]),
            created=header.created.astimezone(UTC),
        )
    except FileNotFoundError:
        raise ProfileError(f"there is no profile at {path}; measure the device first") from None
    except (OSError, pa.ArrowException, *_DAMAGED) as error:
        raise ProfileError(
            f"profile {path} is damaged or no profile ({type(error).__name__}: {said(error)}); measure again"
        ) from error


def _row(entry: str, name: str, graph: OpSpec | OpGraph, rounds: Rounds) -> dict[str, Any]:
    passes, per_pass, _ = rounds.times_ms.shape
    return {
        "entry": entry,
        "name": name,
        "graph": json.dumps(asdict(graph)),
        "passes": passes,
        "rounds": per_pass,
        "times_ms": rounds.times_ms.ravel().tolist(),
    }


def _parse(
    rows: Sequence[Mapping[str, Any]], header: _Header, path: Path
) -> tuple[dict[OpSpec, Rounds], dict[str, list[MeasuredNetwork]]]:
    """Kernels, and networks by what they are entered as."""
    kernels: dict[OpSpec, Rounds] = {}
    networks: dict[str, list[MeasuredNetwork]] = {"network": [], "held out": []}
    for number, row in enumerate(rows):
        try:
            if None in row.values():
                raise ValueError("one of its cells is empty")
            times_ms = np.array(row["times_ms"], dtype=np.float64)
            rounds = Rounds(times_ms.reshape(row["passes"], row["rounds"], -1))
            if row["entry"] == "kernel":
                kernel = _kernel(row["graph"])
                if kernel in kernels:
                    raise ValueError("this kernel has a row already")
                kernels[kernel] = rounds
            else:
                whole = header.shorter.get(str(number))
                networks[row["entry"]].append(
                    MeasuredNetwork(
                        name=row["name"],
                        graph=_network(row["graph"]),
                        rounds=rounds,
                        energy_mj=_energy(header.energy_mj.get(str(number), [])),
                        whole=None if whole is None else _network(rows[whole]["graph"]).outline,
                    )
                )
        except _DAMAGED as error:
            raise ProfileError(
                f"profile {path}, row {number} ({row['name']}): {said(error)}; measure the device again"
            ) from error
    return kernels, networks


def _kernel(graph: str) -> OpSpec:
    kernel = _KERNEL.validate_json(graph, strict=True, extra="forbid")
    kernel.check()
    return kernel


def _network(graph: str) -> OpGraph:
    network = _NETWORK.validate_json(graph, strict=True, extra="forbid")
    for operator in network.operators:
        operator.check()
    return network


def _energy(told: Sequence[Mapping[str, float]]) -> tuple[Mapping[str, float], ...]:
    for rail, mj in (rail for each in told for rail in each.items()):
        if not 0 <= mj < math.inf:  # nor NaN
            raise ValueError(f"its energy at rail {rail!r} is {mj} mJ; allowed: 0 or more")
    return tuple(told)


def _sha256(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Over header and rows as JSON, which writes and reads every float64 exactly."""
    return hashlib.sha256(json.dumps([header, rows], sort_keys=True).encode()).hexdigest()
