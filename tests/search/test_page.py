"""The page and the pictures of a report, whatever the names in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from hwprofiles.errors import RequestError
from search.page import breakable, draw_front, render_html
from search.report import Report, Trust
from search.tables import networks
from tests.search.reports import BARE, DENSE, FOUND, REPORT, UNIFORM

HOSTILE = """<script>alert("1")</script>&'$x_{1}$ {{ 7 * 7 }} 漢"""


ONE_TRIAL = replace(BARE, points=REPORT.points[:1], hypervolume=(0.1,))


class _Page(HTMLParser):
    """A page as a browser reads it: its text, its elements, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _hostile(report: Report) -> Report:
    """The same report, with a name that attacks the page wherever a user's words can stand."""
    return replace(
        report,
        job=HOSTILE,
        budget=HOSTILE,
        device=replace(report.device, name=HOSTILE, board=HOSTILE, versions={HOSTILE: HOSTILE}),
        dense=replace(report.dense, label=HOSTILE),
        rows=tuple(replace(row, label=HOSTILE, kept={HOSTILE: 3}) for row in report.rows),
        points=tuple(
            replace(point, origin=HOSTILE, failed=point.failed and HOSTILE) for point in report.points
        ),
        groups=tuple(replace(group, name=HOSTILE, kind=HOSTILE) for group in report.groups),
        frozen={HOSTILE: HOSTILE},
        warnings=(HOSTILE,),
        versions={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
        export_folder=HOSTILE,
        commands={HOSTILE: HOSTILE},
        classes=(HOSTILE,) * len(report.classes),
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(REPORT)


def test_of_several_devices_the_headline_is_about_the_one_on_which_the_winner_gains_least() -> None:
    slow = replace(FOUND, measured_ms=1.4)
    npu = replace(REPORT, device=replace(REPORT.device, name="npu"), rows=(UNIFORM, slow))
    report = replace(REPORT, others=(npu,))
    assert report.headline == "1.50× faster at −0.3 points on npu, where it gains least: trial 3"
    assert replace(npu, others=(REPORT,)).headline == report.headline
    assert (report.result, npu.result) == (REPORT.headline, npu.headline)
    text = " ".join(_Page(render_html(report)).text.split())
    assert "On npu it answers in 1.40 ms where the dense model takes 2.10 ms" in text
    assert "Latency on this-cpu1.05 msdense 2.10 ms · 2.00× as fast" in text
    assert "2.00× faster at −0.3 points on this-cpu: trial 3." in text


@pytest.mark.parametrize(
    ("dense", "winner", "named"),
    [
        (2.96, 0.01, "the dense model (rounds spread by 296%) was"),
        (0.25, 0.26, "trial 3 (rounds spread by 26%) was"),
        (0.3, 0.4, "the dense model (rounds spread by 30%) and of trial 3 (rounds spread by 40%) was"),
    ],
)
def test_a_speed_up_of_a_disturbed_measurement_is_doubted_where_the_headline_stands(
    dense: float, winner: float, named: str
) -> None:
    found = replace(FOUND, measured_spread=winner)
    report = replace(REPORT, dense=replace(DENSE, measured_spread=dense), rows=(UNIFORM, found))
    assert report.doubt.startswith(f"the measurement of {named} disturbed, so do not rely on the speed-up")
    text = _Page(render_html(report)).text
    assert 0 < text.index(report.headline) < text.index(report.doubt) < text.index("The front")
    assert report.to_json()["doubt"] == report.doubt


@pytest.mark.parametrize(("off", "told"), [(0.4, "40% slower"), (-0.3, "30% faster"), (0.1, "")])
def test_a_device_in_another_state_than_it_was_profiled_in_is_pointed_out(off: float, told: str) -> None:
    dense = replace(DENSE, measured_ms=DENSE.predicted_ms * (1 + off))
    report = replace(REPORT, dense=dense, rows=(FOUND,))
    assert report.doubt.startswith(f"this-cpu is {told} than when it was profiled" if told else "")
    assert bool(report.doubt) == bool(told)
    page = _Page(render_html(report)).text
    assert page.index(report.headline) < page.index(report.doubt or "The front") <= page.index("The front")


def test_a_speed_up_is_doubted_for_no_other_reason() -> None:
    dense = replace(DENSE, measured_spread=2.96)
    unmeasured = replace(FOUND, measured_ms=None)
    others = replace(UNIFORM, measured_ms=1.0, measured_spread=2.96)
    for report in (
        REPORT,
        replace(REPORT, rows=(others, FOUND)),
        replace(REPORT, dense=dense, rows=(unmeasured,)),
        replace(REPORT, dense=dense, rows=(replace(FOUND, exported=False),)),
    ):
        assert report.doubt == ""
        assert "disturbed" not in render_html(report)


def test_units_of_a_group_that_went_with_its_block_are_not_counted() -> None:
    assert "gone with" not in render_html(REPORT)
    shorter = replace(FOUND, gone={"head.mlp": "head"})
    page = render_html(replace(REPORT, rows=(shorter,)))
    assert '<td class="kept" style="--part:0%" title="gone with block head">–</td>' in page
    text = " ".join(_Page(page).text.split())
    assert "head.mlp heads 60.0 % 64 –" in text
    assert "– is gone with the block that it is in." in text


def test_the_page_shows_every_network_group_failure_and_reason(page: str) -> None:
    text = _Page(page).text
    for row in REPORT.ordered:
        assert row.label in text
    for words in (
        REPORT.headline,
        "head.mlp",
        "the loss became NaN",
        "1 of 4 trials failed",
        "it is the model's output",
        "No validation split was given.",
        "torch 2.13.0",
        "1 min 5 s",
        'search.load("runs/digits/export")',
        "prunefront show digits",
        "+5.0 %",
    ):
        assert words in text


@pytest.mark.parametrize(
    "report",
    [REPORT, BARE, ONE_TRIAL, _hostile(REPORT)],
    ids=["full", "bare", "one trial", "hostile"],
)
def test_a_page_is_well_formed_runs_nothing_and_fetches_nothing(report: Report) -> None:
    html = render_html(report)
    page = _Page(html)
    assert page.elements.isdisjoint({"script", "link", "img", "iframe", "object", "b"})
    assert all(address.startswith("#") for address in page.addresses)
    assert set(re.findall(r"https?://[^\s\"']+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "url(http" not in html
    assert "@import" not in html


def test_the_page_says_why_the_winner_won_and_marks_it_on_the_front(page: str) -> None:
    text = _Page(page).text
    assert "Among the networks below it is the fastest within 1 point of dense on validation." in text
    assert "★●trial 3" in text
    assert "Among the networks" not in render_html(replace(REPORT, choice=""))


def test_the_page_says_what_changed_in_the_answers_by_the_names_of_classes(page: str) -> None:
    text = " ".join(_Page(page).text.split())
    assert "trial 3 3.12 23 12 dog 4.20 ± 1.10 cat → dog 9, dog → 2 4" in text
    assert "What changed in the answers" not in render_html(replace(REPORT, rows=(UNIFORM,)))


@pytest.mark.parametrize(("runtime", "word"), [("onnxruntime", "measured"), ("synthetic", "modelled")])
def test_latencies_of_a_made_up_device_are_told_as_modelled(runtime: str, word: str) -> None:
    report = replace(REPORT, device=replace(REPORT.device, runtime=runtime))
    table = networks(report)
    page = re.sub(r"<style.*?</style>|<[^>]*>", " ", render_html(report), flags=re.DOTALL)
    for shown in (page, f"{[column.header for column in table.columns]} {table.caption}"):
        assert set(re.findall("measured|modelled", shown)) == {word}
    assert report.to_json()["modelled"] == (word == "modelled")


def test_a_line_may_break_behind_each_dot_of_a_name_and_nowhere_in_its_markup() -> None:
    assert breakable("a.b<i>.c") == "a.<wbr>b&lt;i&gt;.<wbr>c"


def test_hostile_names_are_shown_as_they_are() -> None:
    page = render_html(_hostile(REPORT))
    assert "<script" not in page
    assert _Page(page).text.count(HOSTILE) > 10


def test_pictures_on_a_page_share_no_names(page: str) -> None:
    names = re.findall(r'\bid="([^"]+)"', page)
    assert names
    assert len(names) == len(set(names))


def test_a_page_has_colours_for_a_light_and_for_a_dark_screen_and_no_others(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", picture)
        assert set(re.findall(r"var\((--\w+)\)", picture)) <= set(re.findall(r"(--\w+):", page))


def test_the_page_says_what_each_group_costs_alone_where_that_was_measured(page: str) -> None:
    assert "What each group costs alone" not in page
    losses = {4: 0.25, 8: 0.0}
    measured = replace(REPORT, groups=(replace(REPORT.groups[0], losses=losses), *REPORT.groups[1:]))
    shown = render_html(measured)
    assert "What each group costs alone" in shown
    for kept, loss in losses.items():
        assert f"with {kept} of {REPORT.groups[0].size}: {loss:g} nats" in shown
    assert Report.from_json(json.loads(json.dumps(measured.to_json()))) == measured


def test_the_page_says_how_far_each_rung_is_to_be_trusted(page: str) -> None:
    assert "to be trusted" not in page
    trust = Trust(rung="trial", later="finalist", correlation=-0.254, candidates=7)
    told = replace(REPORT, ladder=(trust,))
    row = '<td>trial</td><td>finalist</td><td class="number">7</td><td class="number">−0.25</td>'
    assert row in render_html(told)
    assert Report.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_every_finished_trial_of_the_picture_says_which_it_is(page: str) -> None:
    assert "<title>trial 3 (amc): 95.00 %, 1.00 ms predicted</title>" in page
    assert "trial 1 (amc)" not in page


def test_trials_far_below_the_rest_are_counted_not_drawn(page: str) -> None:
    assert "1 trial below" in page
    assert "trial below" not in render_html(replace(REPORT, points=REPORT.points[:1]))


@pytest.mark.parametrize("report", [REPORT, BARE, ONE_TRIAL, _hostile(REPORT)])
def test_the_front_is_written_as_svg_that_stands_alone_and_as_png(report: Report, tmp_path: Path) -> None:
    draw_front(report, tmp_path / "front.svg")
    draw_front(report, tmp_path / "front.png")
    svg = ElementTree.parse(tmp_path / "front.svg").getroot()
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert f"latency on {report.device.name}, ms" in texts
    assert "prefers-color-scheme:dark" in (tmp_path / "front.svg").read_text(encoding="utf-8")
    with Image.open(tmp_path / "front.png") as png:
        assert png.width > 1000
        assert len(png.convert("RGB").getcolors(maxcolors=png.width * png.height) or []) > 10


def test_the_same_report_is_drawn_the_same(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        draw_front(REPORT, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_picture_is_svg_or_png(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"'\.gif'.*\.svg or \.png"):
        draw_front(REPORT, tmp_path / "front.gif")


def test_names_of_networks_on_one_spot_do_not_overlap(tmp_path: Path) -> None:
    crowd = tuple(replace(FOUND, label=f"trial {i}", trial=i, exported=False) for i in range(30))
    draw_front(replace(REPORT, rows=crowd), tmp_path / "front.svg")
    svg = ElementTree.parse(tmp_path / "front.svg").getroot()
    texts = list(svg.iter("{http://www.w3.org/2000/svg}text"))
    places = [(text.get("x"), text.get("y")) for text in texts if (text.text or "").startswith("trial ")]
    assert 1 < len(places) < 30
    assert len(places) == len(set(places))


def test_in_a_crowd_the_winner_has_its_name(tmp_path: Path) -> None:
    crowd = tuple(replace(FOUND, label=f"trial {i}", trial=i, exported=i == 29) for i in range(30))
    draw_front(replace(REPORT, rows=crowd), tmp_path / "front.svg")
    assert ">trial 29</text>" in (tmp_path / "front.svg").read_text()
