"""`prunefront pick` and `rescore`: which trial to take, also on a device that was not searched for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hwprofiles import Profile, Rounds, read_profile, write_profile
from search.numbers import significant
from search.place import Place
from tests.commands import Prunefront, refused, written_json


def slowed(profile: Profile, factor: float) -> Profile:
    """A made-up device that takes so many times as long for everything."""

    def longer(rounds: Rounds) -> Rounds:
        return Rounds(rounds.times_ms * factor)

    return replace(
        profile,
        device=replace(profile.device, name="far", board="a CPU elsewhere"),
        kernels={kernel: longer(rounds) for kernel, rounds in profile.kernels.items()},
        networks=tuple(replace(net, rounds=longer(net.rounds)) for net in profile.networks),
    )


@pytest.fixture
def place(runs: Path) -> Place:
    """The finished job in a folder that has a profile of a device three times as slow."""
    place = Place(runs, "small")
    place.devices.mkdir()
    write_profile(slowed(read_profile(place.profile), 3), place.devices / "far.parquet")
    return place


def test_trials_are_rescored_for_a_device_that_was_not_there(prunefront: Prunefront, place: Place) -> None:
    before = written_json(prunefront("pareto", place.folder, "--json"))
    found = written_json(prunefront("rescore", place.folder, "--device", "far", "--json"))
    assert found["device"]["board"] == "a CPU elsewhere"
    for key in ("points", "rows"):
        for here, there in zip(before[key], found[key], strict=True):
            assert there["predicted_ms"] == pytest.approx(3 * here["predicted_ms"])
    assert [point["on_front"] for point in found["points"]] == [p["on_front"] for p in before["points"]]
    assert found["hypervolume"] == pytest.approx(before["hypervolume"])
    assert {row["measured_ms"] for row in found["rows"]} == {None}
    assert (place.folder / "front-far.svg").read_text().count("latency on far, ms") == 1
    assert {path.name for path in place.folder.glob("front-*")} == {
        f"front-far.{s}" for s in ("json", "png", "svg")
    }
    shown = prunefront("rescore", place.folder, "--device", place.devices / "far.parquet")
    assert "front of small on far, before finalists were fine-tuned" in shown.out
    assert shown.out.endswith(f"picture  {place.folder}/front-far.svg\n")


def test_the_file_of_a_profile_is_a_device_that_no_other_of_the_job_is_taken_for(
    prunefront: Prunefront, place: Place, tmp_path: Path
) -> None:
    far = read_profile(place.devices / "far.parquet")

    def called(name: str, file: str) -> str:
        """What a device of that name is called, whose profile lies in such a file."""
        write_profile(replace(far, device=replace(far.device, name=name)), tmp_path / file)
        return str(
            written_json(
                prunefront("pick", place.folder, "--macs", 1e9, "--json", "--device", tmp_path / file)
            )["device"]
        )

    assert called("far", "profile.parquet") == "far"
    assert called("This-CPU", "bench.parquet") == called("../up", "bench.parquet") == "bench"
    with pytest.raises(
        AssertionError, match="'a/b', and neither that nor its file's name can be one beside this-cpu"
    ):
        called("a/b", "this-cpu.parquet")


def test_a_profile_that_lacks_operators_says_which_and_how_to_measure_them(
    prunefront: Prunefront, place: Place
) -> None:
    profile = read_profile(place.devices / "far.parquet")
    kernels = {kernel: rounds for kernel, rounds in profile.kernels.items() if kernel.kind != "linear"}
    write_profile(replace(profile, kernels=kernels, networks=()), place.devices / "far.parquet")
    ran = prunefront("rescore", place.folder, "--device", "far")
    refused(ran, "profile 'far' lacks ")
    assert "operators that candidates of job 'small' run there: linear " in ran.err
    assert f"`prunefront profile --device far --model {place.bundle}`" in ran.err
    refused(prunefront("rescore", place.folder, "--device", "fra"), "'fra' has no profile in")


def test_pick_names_a_trial_with_its_error_bar_and_the_command_that_takes_it(
    prunefront: Prunefront, place: Place
) -> None:
    found = written_json(prunefront("pick", place.folder, "--macs", 1e9, "--json"))
    assert found["finalist"]
    assert found["next"] == f"prunefront export {place.folder} --trial {found['trial']}"
    predicted = found["predicted"]
    limit = 3 * (predicted["latency_ms"] + predicted["error_ms"]) * 1.001
    there = prunefront("pick", place.folder, "--latency-ms", limit, "--memory-bytes", 1e9, "--device", "far")
    assert there.out.startswith(f"{found['label']}: ")
    assert re.search(r" parameters, memory [\d.]+ kB$", there.out, re.MULTILINE)
    assert f"predicted {significant(3 * predicted['latency_ms'])}±" in there.out
    assert "measured" not in there.out
    assert (
        f"measured {significant(found['measured_ms'])} ms"
        in prunefront("pick", place.folder, "--macs", 1e9).out
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            [],
            "pick takes one or more of --latency-ms, --latency-p99-ms, --macs, --parameters, --size-bytes, ",
        ),
        (["--macs", "0"], "give each a number above 0"),
        (["--macs", "10"], "holds macs=10; the nearest, trial"),
        (
            ["--latency-ms", "1e-6", "--macs", "10"],
            "holds latency_ms=1e-06 and macs=10 on this-cpu; the nearest, trial",
        ),
        (["--latency-ms", "1", "--device", "lost"], "device 'lost' has no profile"),
    ],
)
def test_a_pick_that_cannot_be_is_refused(
    options: list[str], sentence: str, prunefront: Prunefront, finished_runs: Path
) -> None:
    refused(prunefront("pick", finished_runs / "small", *options), sentence)
