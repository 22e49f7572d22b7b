"""What the command line prints: marks with their meaning, names as they are, and 80 columns held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from search import device_tables, tables
from tests.search.reports import DENSE, FOUND, REPORT, UNIFORM

LONG = "encoder.layers.encoder_layer_11.self_attention.out_projection.parametrized"
FACTS = {"accuracy": 0.95, "accuracy_error": 0.01, "macs": 80_000_000, "parameters": 850_000}


def printed(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, color_system=None)
    console.print(table)
    return console.export_text().splitlines()


def trial(number: int, reason: str = "") -> dict[str, Any]:
    return {"trial": number, "origin": "amc", "state": "done", "reason": reason, "facts": FACTS, "then": ""}


def test_what_became_of_the_dense_answers_is_told_for_each_stage_that_knows_it() -> None:
    changes = {"lost": 23, "won": 12, "moves": [[3, 5, 9], [5, 3, 4]], "worst_class": 3, "worst_drop": 0.042}
    changes["worst_drop_error"] = 0.011
    facts = {"images": 500, "calibration_error": 0.031, "changes": changes}
    found = {"facts": FACTS, "results": {"final": {"facts": {**facts, "notes": ["trained on 64 at a time"]}}}}
    told, moves, note = tables.answers(found)
    assert told == (
        "finalist: of 500 answers 23 that dense gives right are wrong and 12 that it gives wrong are right; "
        "class 3 lost most, 4.20±1.10 points; calibration error 3.10 %"
    )
    assert moves == "finalist: most answers moved from class to class as 3→5 (9), 5→3 (4)"
    assert note == "finalist: trained on 64 at a time"
    changes["worst_drop"] = 0.0
    told, *_ = tables.answers({"facts": {**facts, "changes": changes, "notes": []}, "results": {}})
    assert "are right; no class lost; calibration error" in told
    assert tables.answers({"facts": None, "results": {}}) == []


def test_the_winner_is_starred_and_what_was_only_predicted_is_marked() -> None:
    lines = printed(tables.networks(replace(REPORT, rows=(replace(UNIFORM, label="[red]half"), FOUND))))
    (winner,) = [line for line in lines if "trial 3" in line]
    (baseline,) = [line for line in lines if "[red]half" in line]
    assert winner.split() == "★● trial 3 96.70±0.70 1.00±0.060 1.05 80.0 M 850 k 2.00×".split()
    assert baseline.split()[-1] == "~2.02×"


def test_the_legend_explains_the_marks_that_are_there_and_no_others() -> None:
    legends = {
        "★ exported   ● on the front of this table   ~ predicted, not measured": (UNIFORM, FOUND),
        "★ exported   ● on the front of this table": (FOUND,),
        "": (replace(FOUND, exported=False, on_front=False),),
    }
    for legend, rows in legends.items():
        assert str(tables.networks(replace(REPORT, rows=rows, choice="")).caption) == legend


def test_the_heading_names_the_split_that_accuracies_are_on() -> None:
    untested = replace(REPORT, rows=(replace(FOUND, test_accuracy=None),))
    for report, split, accuracy in ((REPORT, "test", "96.70"), (untested, "validation", "97.00")):
        lines = printed(tables.networks(report))
        assert lines[1].split()[:3] == ["network", split, "%"]
        (winner,) = [line for line in lines if "trial 3" in line]
        assert winner.split()[3].startswith(accuracy)


def test_the_searchs_front_stands_beside_the_dense_network_on_the_same_split() -> None:
    lines = [line.split() for line in printed(tables.front(REPORT))]
    assert ["3", "amc", "95.00", "1.00"] in lines
    assert ["–", "dense", "98.00", "2.00"] in lines


def test_one_line_says_why_the_winner_won() -> None:
    lines = printed(tables.networks(REPORT))
    assert lines[-1].strip() == f"★ is {REPORT.choice}"


def test_names_and_numbers_of_any_length_are_whole_at_80_columns() -> None:
    slow = {"predicted_ms": 1234.5, "predicted_error_ms": 123.4, "measured_ms": 1234.5}
    dense, row = replace(DENSE, **slow), replace(FOUND, **slow, label="uniform 9999", validation_accuracy=1.0)
    lines = printed(tables.networks(replace(REPORT, rows=(row,), dense=dense)))
    assert all("…" not in line for line in lines)
    shares = {"name": LONG, "kind": "channels", "size": 4096, "macs_share": 1.0, "latency_share": 1.0}
    group = {**shares, "members": [f"{LONG}.weight:0"] * 9}
    keeps = {"widths": {LONG: 2048}, "sizes": {LONG: 4096}, "gone": {}}
    for table in (tables.groups({"groups": [group]}), tables.widths(keeps)):
        lines = printed(table)
        assert all(len(line) <= 80 for line in lines)
        assert "".join(line.strip().split(" ")[0] for line in lines[3:]).startswith(LONG)


def test_a_device_and_how_it_runs_networks_are_whole_at_80_columns() -> None:
    device = {
        "device": "orin-nano-15w-fp16",
        "profile": "orin-nano-15w-fp16.parquet",
        "board": "NVIDIA Jetson Orin Nano",
        "power_mode": "15W",
        "runtime": "tensorrt",
        "precision": "fp16",
        "batch": 16,
        "threads": 1,
        "versions": {"tensorrt": "10.3.0.30", "cuda": "12.6"},
        "this_machine": True,
        "age_days": 120.0,
        "mean_error": 0.012,
    }
    first, *more = [line.strip() for line in printed(device_tables.devices([device]))[3:6]]
    assert first.split("  ") == [
        "★", "orin-nano-15w-fp16", "tensorrt fp16, batch 16, 1 thread", "120 d", " 1.2%"
    ]  # fmt: skip
    assert more == ["NVIDIA Jetson Orin Nano, 15W", "tensorrt 10.3.0.30, cuda 12.6"]
    with_agent = [device, {**device, "profile": None, "seen_s_ago": 7200.0}]
    ends = [line.rstrip()[-7:] for line in printed(device_tables.devices(with_agent)) if "orin" in line]
    assert ends == ["      –", "2 h ago"]


def test_predictions_tell_memory_only_where_it_is_that_of_fp32_at_80_columns() -> None:
    candidate = {
        "predicted": {"latency_ms": 1234.5, "error_ms": 123.4},
        "measured": {"latency_ms": 1234.5, "spread": 0.123},
        "memory": {"peak_bytes": 123_456_789, "weight_bytes": 123_456_789},
    }
    found = {
        "device": "bench",
        "modelled": False,
        "coverage": 0.9,
        "calibrated_on": "this model",
        "candidates": [{"failed": "too thin"}, candidate],
    }
    lines = printed(device_tables.predictions({**found, "precision": "fp32"}))
    assert lines[1].strip().split("  ")[-2:] == ["activations MB", "weights MB"]
    assert lines[3].split() == ["2", "1234±123", "1234", "12.3%", "123", "123"]
    lines = printed(device_tables.predictions({**found, "precision": "int8"}))
    assert lines[3].split() == ["2", "1234±123", "1234", "12.3%"]


@pytest.mark.parametrize(("change", "doubted"), [(0.8, True), (-0.4, True), (0.02, False)])
def test_what_is_measured_beside_predictions_is_doubted_if_the_dense_model_moved(
    change: float, doubted: bool
) -> None:
    dense = {"then_ms": 1.0, "now_ms": 1 + change, "change": change}
    found: dict[str, Any] = {"candidates": [], "modelled": False, "relative_error": 0.03, "dense": dense}
    told = device_tables.doubts(found)
    assert ["in another state" in line for line in told] == [True] * doubted
    assert (
        device_tables.doubts({**found, "modelled": True})
        == device_tables.doubts({**found, "dense": None})
        == []
    )


@pytest.mark.parametrize(
    ("drops", "basis", "dropped_there", "sentence"),
    [
        ([[], ["layer1.1"]], "this model", False, "candidate 2 lacks whole blocks, which all networks have"),
        ([["a"], ["b"]], "other models", False, "candidates 1, 2 lack whole blocks, which all networks have"),
        ([["a"]], "this model", True, ""),
        ([["a"]], None, False, ""),
        ([[]], "this model", False, ""),
    ],
)
def test_error_bars_of_networks_with_all_their_blocks_vouch_less_for_candidates_without_some(
    drops: list[list[str]], basis: str | None, dropped_there: bool, sentence: str
) -> None:
    candidates = [{"dropped": dropped} for dropped in drops]
    found = {"calibrated_on": basis, "calibrated_on_dropped": dropped_there, "dense": None}
    told = device_tables.doubts({**found, "candidates": candidates})
    assert [line[: len(sentence)] for line in told] == [sentence] * bool(sentence)


def test_a_few_networks_tell_an_error_and_no_ranks() -> None:
    shares = ("mean_error", "floor", "spearman", "within_5", "within_10", "covered", "coverage")
    found = {"kernels": 1, "networks": 9, "held_out": 4}
    for networks, told in ((4, False), (5, True)):
        proof = {"networks": networks, **dict.fromkeys(shares, 0.5)}
        lines = "\n".join(device_tables.profile({**found, "validation": proof}))
        assert ("rank correlation" in lines, "error bars hold" in lines) == (told, told)
        assert ("too few to tell" in lines) is not told


def test_a_profile_tells_what_was_measured_now_and_what_was_there() -> None:
    found = {"kernels": 127, "networks": 42, "held_out": 20, "added": {"kernels": 30, "networks": 31}}
    assert device_tables.profile(found) == [
        "kernels          127, the call itself among them: 30 new, 97 there before",
        "networks         42 to calibrate on, 20 held out: 31 new, 31 there before",
    ]


def test_half_a_group_is_half_a_bar() -> None:
    (line,) = [
        line
        for line in printed(tables.widths({"widths": {"stem": 8}, "sizes": {"stem": 16}, "gone": {}}))
        if "stem" in line
    ]
    assert line.split() == ["stem", "8", "16", "50%", "█" * 10 + "░" * 10]


def test_trials_that_failed_alike_share_a_line() -> None:
    found = [trial(0), trial(1, "NaN"), trial(2, "its worker died"), trial(3, "NaN")]
    assert tables.failures(found) == ["failed: trial 1, 3: NaN", "failed: trial 2: its worker died"]


def test_groups_that_are_frozen_alike_share_a_line() -> None:
    names = {"embed": "a class token", "head": "an output", "proj": "a class token"}
    found = {"frozen": [{"name": name, "size": 64, "reason": reason} for name, reason in names.items()]}
    assert tables.frozen(found) == [
        "frozen: embed (64 units), proj (64 units): a class token",
        "frozen: head (64 units): an output",
    ]


def test_predicted_stands_beside_measured() -> None:
    final = {"facts": {**FACTS, "accuracy": 0.97}, "test": None}
    known = {**trial(3), "predicted": {"latency_ms": 1.0, "error_ms": 0.06}, "modelled": False}
    lines = printed(tables.stages({**known, "results": {"final": final}}))
    assert lines[-3].split() == "searched 95.00±1.00 – 1.00±0.060 – 80.0 M 850 k".split()
    measured = {"final": {**final, "test": FACTS}, "measured": {"latency_ms": 1.05}}
    lines = printed(tables.stages({**known, "results": measured}))
    assert lines[-2].split() == "finalist 97.00±1.00 95.00±1.00 1.00±0.060 1.05 80.0 M 850 k".split()


def test_multiples_of_the_step_are_advised_only_to_groups_of_more_than_one() -> None:
    more = {"counts": [9], "worst": 9, "worst_ms": 2.0, "whole_ms": 1.0}
    groups = [{"name": name, "size": size, "dear": more} for name, size in (("stem", 16), ("body", 17))]
    advised = [
        line.endswith("; multiples of 16 do not") for line in tables.dear({"groups": groups, "step": 16})
    ]
    assert advised == [False, True]


def test_groups_within_one_step_of_the_device_are_said_to_be_no_faster_with_fewer_units() -> None:
    kinds = {"stem": ("channels", 8), "body": ("channels", 17), "attention": ("heads", 4)}
    groups = [{"name": n, "kind": kind, "size": size, "dear": None} for n, (kind, size) in kinds.items()]
    dear = {"name": "neck", "kind": "channels", "size": 16, "dear": {"worst": 8}}
    found = {"groups": [*groups, dear]}
    assert tables.small({**found, "step": 16}) == [
        "no faster with fewer: stem (8 units): within one step of the device, which is 16 units"
    ]
    assert tables.small({**found, "step": 4}) == []
