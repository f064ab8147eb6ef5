"""Reports of made-up results: numbers against their definitions, files against their promises."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from rich.console import Console
from scipy import stats as scipy_stats

from compactrec.benchmarks.charts import series_of, spread
from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.png import draw_png
from compactrec.benchmarks.report import (
    ReportFiles,
    findings,
    html_page,
    insert_fragment,
    markdown_fragment,
    write_report,
)
from compactrec.benchmarks.result import PREDICTIONS_NAME, DataInfo, Result
from compactrec.benchmarks.show import terminal_table
from compactrec.benchmarks.summary import Row, Summary, summarise
from compactrec.benchmarks.svg import curve_svg, difference_svg
from tests.benchmarks.fake_runs import FULL_BYTES, fake_result, fake_study

QUARTER, SIXTEENTH = 4_000_000, 1_000_000
REASON = "rare: the smallest plan takes 1.2 MB; raise the budget <or> choose another method"
NOISES: dict[str, dict[int, float | str]] = {
    "uniform": {QUARTER: 0.7, SIXTEENTH: 1.3},
    "rare": {QUARTER: 0.9, SIXTEENTH: REASON},
    "hash": {QUARTER: 0.9, SIXTEENTH: 1.5},
    "mixed": {QUARTER: 0.6, SIXTEENTH: 0.9},
    "unified:dim=4": {QUARTER: 0.65, SIXTEENTH: 1.0},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    out = tmp_path_factory.mktemp("study")
    fake_study(out, NOISES, best_auc=0.83)
    return write_report([out], out, num_resamples=60)


@pytest.fixture
def summary(files: ReportFiles) -> Summary:
    return files.summary


def row_of(summary: Summary, method: str, budget: int | None) -> Row:
    (row,) = [r for r in summary.rows if (r.method, r.budget_bytes) == (method, budget)]
    return row


def test_rows_hold_means_intervals_and_bytes(summary: Summary) -> None:
    row = row_of(summary, "mixed", QUARTER)
    values = list(row.auc_by_seed.values())
    assert row.seeds == summary.seeds == (0, 1, 2)
    assert row.auc is not None
    assert row.auc.mean == pytest.approx(np.mean(values))
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(values), scipy_stats.sem(values))
    assert (row.auc.low, row.auc.high) == pytest.approx((low, high))
    assert row.bytes["serving_bytes"] == QUARTER
    assert row.bytes["training_bytes"] == 2 * QUARTER
    assert row.compression == FULL_BYTES / QUARTER
    assert row.speed_ratio == pytest.approx(1.0)


def test_versus_is_the_paired_test_at_the_same_budget(summary: Summary) -> None:
    row, other = row_of(summary, "mixed", QUARTER), row_of(summary, "hash", QUARTER)
    expected = scipy_stats.ttest_rel(
        list(row.auc_by_seed.values()), list(other.auc_by_seed.values())
    )
    versus = row.versus["hash"]
    assert row.auc is not None
    assert other.auc is not None
    assert versus.mean == pytest.approx(row.auc.mean - other.auc.mean)
    assert versus.p_value == pytest.approx(expected.pvalue)
    assert versus.rows_low is not None
    assert versus.rows_high is not None
    assert versus.rows_low < versus.mean < versus.rows_high
    assert versus.verdict == "better"
    assert row.versus["full"].verdict == "worse"


def test_holm_runs_over_the_methods_of_one_budget(summary: Summary) -> None:
    rows = [r for r in summary.rows if r.budget_bytes == QUARTER and "hash" in r.versus]
    assert len(rows) == 4
    by_p = sorted((r.versus["hash"] for r in rows), key=lambda v: v.p_value or 0)
    assert by_p[0].p_holm == pytest.approx(min(1.0, 4 * (by_p[0].p_value or 0)))
    assert all((v.p_holm or 0) >= (v.p_value or 0) for v in by_p)


def test_equal_methods_are_not_told_apart(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 0.9}, "rare": {QUARTER: 0.9}})
    row = row_of(summarise(load_study([tmp_path]), num_resamples=40), "rare", QUARTER)
    assert row.versus["hash"].verdict == "unclear"


def test_one_difference_under_every_seed_is_not_told_apart(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 0.9}, "rare": {QUARTER: 0.9}, "mixed": {QUARTER: 0.7}})
    for seed in range(3):
        base = Result.load(tmp_path / f"runs/hash_{QUARTER}_{seed}")
        test = base.test.model_copy(update={"auc": base.test.auc + 0.01})
        path = tmp_path / f"runs/rare_{QUARTER}_{seed}"
        Result.load(path).model_copy(update={"test": test}).save(path)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    summary = summarise(load_study([tmp_path]))
    versus = row_of(summary, "rare", QUARTER).versus["hash"]
    assert versus.mean == pytest.approx(0.01)
    assert (versus.low, versus.p_value, versus.p_holm) == (None, None, None)
    assert versus.verdict == "unclear"
    assert "| +0.0100 |" in markdown_fragment(summary)
    assert "no p-value: the same difference under every seed" in html_page(summary)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_the_test_rows_do_not_bear_out_is_not_told_apart(tmp_path: Path, sign: int) -> None:
    """All seeds agree on a difference, but the predictions say that other rows might not."""
    fake_study(tmp_path, {"hash": {QUARTER: 0.9}, "rare": {QUARTER: 0.9}})
    for seed in range(3):
        base = Result.load(tmp_path / f"runs/hash_{QUARTER}_{seed}")
        test = base.test.model_copy(update={"auc": base.test.auc + sign * (0.002 + 1e-5 * seed)})
        path = tmp_path / f"runs/rare_{QUARTER}_{seed}"
        Result.load(path).model_copy(update={"test": test}).save(path)
        shutil.copy(tmp_path / f"runs/hash_{QUARTER}_{seed}" / PREDICTIONS_NAME, path)
    versus = row_of(summarise(load_study([tmp_path])), "rare", QUARTER).versus["hash"]
    assert versus.p_holm is not None
    assert versus.p_holm < 0.001
    assert versus.rows_low is not None
    assert versus.rows_high is not None
    assert versus.rows_low <= 0 <= versus.rows_high
    assert versus.verdict == "unclear"


def test_one_seed_gives_no_interval_and_no_verdict(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 1.5}, "mixed": {QUARTER: 0.5}}, num_seeds=1)
    files = write_report([tmp_path], tmp_path, num_resamples=20)
    row = row_of(files.summary, "mixed", QUARTER)
    assert row.auc is not None
    assert row.auc.half_width is None
    assert row.versus["hash"].verdict == "unclear"
    assert row.versus["hash"].p_holm is None
    assert "±" not in files.markdown.read_text().split("\n\n")[0]


def test_without_predictions_the_seeds_decide(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 1.5}, "mixed": {QUARTER: 0.5}})
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    summary = summarise(load_study([tmp_path]))
    versus = row_of(summary, "mixed", QUARTER).versus["hash"]
    assert (versus.rows_low, versus.rows_high, versus.verdict) == (None, None, "better")
    assert summary.num_resamples == 0
    assert "bootstrap" not in markdown_fragment(summary)


def test_without_full_there_is_no_ratio_and_a_report_still(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 1.5}, "mixed": {QUARTER: 0.5}}, full_noise=None)
    files = write_report([tmp_path], tmp_path, num_resamples=10)
    assert files.summary.full is None
    assert row_of(files.summary, "mixed", QUARTER).speed_ratio is None


def test_full_alone_has_a_table_and_no_picture(tmp_path: Path) -> None:
    fake_study(tmp_path, {})
    files = write_report([tmp_path], tmp_path, num_resamples=10)
    assert files.png is None
    assert "<svg" not in files.html.read_text()


def test_single_training_runs_are_reported_too(tmp_path: Path) -> None:
    for seed in (0, 1):
        fake_result(tmp_path / f"a{seed}", "hash", QUARTER, seed, 1.2)
        fake_result(tmp_path / f"b{seed}", "full", None, seed, 0.3)
    summary = summarise(load_study([tmp_path]), num_resamples=10)
    assert [r.method for r in summary.rows] == ["hash", "full"]
    assert row_of(summary, "hash", QUARTER).versus["full"].num_seeds == 2


# -- what may not be mixed -----------------------------------------------------------------------


def test_results_of_different_data_are_refused_by_name(tmp_path: Path) -> None:
    fake_result(tmp_path / "one", "hash", QUARTER, 0, 1.0)
    other = DataInfo(name="other clicks", protocol="compactrec", manifest_sha256="cd" * 32)
    fake_result(tmp_path / "two", "hash", QUARTER, 1, 1.0, data=other)
    with pytest.raises(ValueError, match=r"one and .*two hold results of different data: fake"):
        load_study([tmp_path])


def test_results_of_different_settings_are_refused_by_name(tmp_path: Path) -> None:
    result = fake_result(tmp_path / "one", "hash", QUARTER, 0, 1.0)
    fake_result(tmp_path / "two", "hash", QUARTER, 1, 1.0)
    changed = result.model_copy(update={"config": {**result.config, "epochs": 7}})
    changed.save(tmp_path / "one")
    with pytest.raises(ValueError, match=r"epochs is 7 in the first and 1 in the second"):
        load_study([tmp_path])


def test_runs_of_different_plans_or_rates_are_not_averaged(tmp_path: Path) -> None:
    one = fake_result(tmp_path / "a", "mixed", 1_000_000, 0, 0.5)
    two = fake_result(tmp_path / "b", "mixed", 1_000_000, 1, 0.5)
    load_study([tmp_path])
    two.model_copy(update={"plan": {"other": 1}}).save(tmp_path / "b")
    with pytest.raises(ValueError, match="seeds 0 and 1 have different plans"):
        load_study([tmp_path])
    config = {**one.config, "seed": 1, "table_learning_rate": 7.0}
    two.model_copy(update={"config": config}).save(tmp_path / "b")
    with pytest.raises(ValueError, match=r"table_learning_rate is .* and 7\.0"):
        load_study([tmp_path])


def test_options_and_plan_files_make_rows_of_their_own(tmp_path: Path) -> None:
    for i, options in enumerate(({}, {"operation": "concat"})):
        result = fake_result(tmp_path / f"o{i}", "compositional", 1_000_000, 0, 0.5)
        config = {**result.config, "options": options}
        result.model_copy(update={"config": config}).save(tmp_path / f"o{i}")
    for i, num_bytes in enumerate((300, 400)):
        result = fake_result(tmp_path / f"p{i}", "mixed", num_bytes, 0, 0.5)
        result.model_copy(update={"budget_bytes": None}).save(tmp_path / f"p{i}")
    found = {(cell.method, cell.budget_bytes) for cell in load_study([tmp_path]).cells}
    assert found == {
        ("compositional", 1_000_000), ("compositional:operation=concat", 1_000_000),
        ("mixed", 300), ("mixed", 400),
    }  # fmt: skip


def test_single_runs_beside_a_comparison_are_reported_and_trials_are_not(tmp_path: Path) -> None:
    fake_study(tmp_path / "study", {"rare": {4_000_000: 0.4}})
    before = load_study([tmp_path])
    trial = fake_result(tmp_path / "trial", "mixed", 4_000_000, 0, 0.5)
    trial.model_copy(update={"test": None}).save(tmp_path / "trial")
    assert load_study([tmp_path]) == before
    fake_result(tmp_path / "single", "mixed", 4_000_000, 0, 0.5)
    methods = {cell.method for cell in load_study([tmp_path]).cells}
    assert methods == {"full", "rare", "mixed"}


def test_two_results_for_one_seed_are_refused(tmp_path: Path) -> None:
    fake_result(tmp_path / "one", "hash", QUARTER, 0, 1.0)
    fake_result(tmp_path / "two", "hash", QUARTER, 0, 1.4)
    with pytest.raises(ValueError, match="hash at 4000000 bytes with seed 0 has two different"):
        load_study([tmp_path])


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run 'compactrec compare' or 'compactrec train' first"):
        load_study([tmp_path])
    with pytest.raises(ValueError, match="is not a folder"):
        load_study([tmp_path / "nothing"])


def test_a_damaged_compare_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text('{"format": "compactrec.compare"}')
    with pytest.raises(ValueError, match=r"compare\.json is not a compare file of version 1"):
        load_study([tmp_path])


def test_an_unknown_baseline_is_refused(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 1.0}})
    with pytest.raises(ValueError, match=r"baseline 'hashing' is not among .* full, hash"):
        summarise(load_study([tmp_path]), baseline="hashing")


@pytest.mark.parametrize(("methods", "expected"), [("rare hash", "hash"), ("mixed rare", "rare")])
def test_the_default_baseline_is_one_that_is_there(
    tmp_path: Path, methods: str, expected: str
) -> None:
    fake_study(tmp_path, {name: {QUARTER: 1.0} for name in methods.split()})
    assert summarise(load_study([tmp_path]), num_resamples=0).baseline == expected


# -- the files -----------------------------------------------------------------------------------


def test_the_summary_is_json_that_reads_back(files: ReportFiles) -> None:
    text = files.json.read_text()
    assert Summary.model_validate_json(text) == files.summary
    assert "NaN" not in text
    assert len(json.loads(text)["rows"]) == 11
    assert files.json.stat().st_size < 100_000, "aggregates only"


def test_the_markdown_table_is_whole(summary: Summary) -> None:
    text = markdown_fragment(summary)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 11
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}
    assert "± " in table[2]
    reason = REASON.replace("<", "&lt;").replace(">", "&gt;")
    assert f"No result for rare at 1/16 of full (1 MB): {reason}." in text
    assert "<" not in text
    assert "0123456789ab" in text


def test_every_row_stands_in_the_terminal_table(summary: Summary) -> None:
    for width in (80, 120, 160):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(terminal_table(summary, width))
        text = console.export_text()
        for name in NOISES:
            assert text.count(f" {name} ") + text.count(f"\n{name} ") >= 2
        assert "none, see below" in text
        assert ("Log loss" in text) == (width >= 160)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


class Page(HTMLParser):
    """Collects what a browser would load and what a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v or "" for k, v in attributes if k in ("src", "href", "data", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_loads_nothing(files: ReportFiles) -> None:
    text = files.html.read_text()
    page = Page()
    page.feed(text)
    assert page.loads == []
    assert page.tags.count("svg") == 2
    assert "link" not in page.tags
    assert "@import" not in text
    assert re.findall(r"url\(", text) == []
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_every_row_and_escapes_what_it_shows(files: ReportFiles) -> None:
    text = files.html.read_text()
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    assert body.count("<tr") == 11
    assert "&lt;or&gt;" in body
    assert "<or>" not in text
    assert "A processor &lt;fast&gt;" in text


def test_names_from_results_cannot_break_the_pictures(tmp_path: Path) -> None:
    evil = 'x"><script>alert(1)</script>'
    fake_study(tmp_path, {"hash": {QUARTER: 1.0}, "mixed": {QUARTER: 0.8}})
    path = tmp_path / "compare.json"
    path.write_text(path.read_text().replace('"method": "mixed"', f'"method": {json.dumps(evil)}'))
    summary = summarise(load_study([tmp_path]), num_resamples=5)
    for svg in (curve_svg(summary), difference_svg(summary)):
        ElementTree.fromstring(svg)
        assert "<script" not in svg
    assert html_page(summary).count("<script") == 1


def test_pictures_hold_every_point_with_its_numbers(summary: Summary) -> None:
    root = ElementTree.fromstring(curve_svg(summary))
    titles = [e.text or "" for e in root.iter() if e.tag.endswith("title")]
    num_points = sum(r.auc is not None for r in summary.rows)
    assert len(titles) == num_points + 1, "every point, the line of full, the line of the best"
    mixed = row_of(summary, "mixed", QUARTER)
    assert mixed.auc is not None
    assert any(t.startswith(f"mixed: test AUC {mixed.auc.mean:.4f} ±") for t in titles)
    words = " ".join(e.text or "" for e in root.iter())
    assert "full tables, 16 MB" in words
    assert "16x smaller" in words
    assert "best possible" in words


def labels_of(svg: str) -> dict[str, float]:
    """Text -> height of the labels beside the curves."""
    root = ElementTree.fromstring(svg)
    found = [e for e in root.iter() if (e.get("class") or "").startswith("label")]
    return {e.text or "": float(e.get("y") or 0) for e in found}


def test_labels_beside_the_curves_do_not_overlap(summary: Summary, tmp_path: Path) -> None:
    crowded: dict[str, dict[int, float | str]] = {
        f"method{i}": {QUARTER: 0.8, SIXTEENTH: 0.9} for i in range(9)
    }
    fake_study(tmp_path, {"hash": {QUARTER: 0.8, SIXTEENTH: 0.9}, **crowded}, full_noise=0.79)
    for one in (summary, summarise(load_study([tmp_path]), num_resamples=0)):
        labels = labels_of(curve_svg(one))
        assert len(labels) == len(series_of(one)) + 1 + (one.data.best_auc is not None)
        heights = sorted(labels.values())
        assert all(b - a >= 15 for a, b in pairwise(heights))


def test_pictures_name_options_that_tell_methods_apart_alone(tmp_path: Path) -> None:
    long = "optembed:epochs=30:patience=1:threshold_learning_rate=0.0001"
    methods = ("hash", f"{long}:alpha=1e-05", f"{long}:alpha=0.001", "dnis:epochs=2:ratio=0.95")
    points: dict[str, dict[int, float | str]] = {
        name: {QUARTER: 0.8 + i / 50} for i, name in enumerate(methods)
    }
    fake_study(tmp_path, points)
    summary = summarise(load_study([tmp_path]), num_resamples=0)
    names = {"hash", "optembed:alpha=1e-05", "optembed:alpha=0.001", "dnis"}
    assert {one.short for one in series_of(summary)} == names
    assert {text.split(" (")[0] for text in labels_of(curve_svg(summary))} >= names
    assert set(labels_of(difference_svg(summary))) >= names - {summary.baseline}
    assert draw_png(summary, tmp_path / "report.png")  # a warning that nothing fits would raise


def test_the_best_possible_auc_may_not_squeeze_the_rest(summary: Summary) -> None:
    data = summary.data.model_copy(update={"best_auc": 0.99})
    far = curve_svg(summary.model_copy(update={"data": data}))
    assert "best possible" not in far
    assert "best possible" in curve_svg(summary)


def test_predictions_of_other_rows_are_refused(tmp_path: Path) -> None:
    fake_study(tmp_path, {"hash": {QUARTER: 1.0}})
    fake_result(tmp_path / f"runs/hash_{QUARTER}_1", "hash", QUARTER, 1, 1.0, num_rows=3000)
    with pytest.raises(ValueError, match=r"hash_4000000_1.* holds other test rows"):
        summarise(load_study([tmp_path]))


def test_series_are_told_apart_without_colour(summary: Summary) -> None:
    series = series_of(summary)
    assert len({(s.mark, s.baseline) for s in series}) == len(series)
    assert len({s.colour for s in series}) == len(series)


def test_the_png_is_a_picture(files: ReportFiles) -> None:
    assert files.png is not None
    assert files.png.read_bytes().startswith(b"\x89PNG")
    assert files.png.stat().st_size > 20_000


def test_no_line_of_the_png_crosses_the_label_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded: dict[str, dict[int, float | str]] = {
        f"method{i}": {QUARTER: 0.8, SIXTEENTH: 0.9} for i in range(6)
    }
    fake_study(tmp_path, {"hash": {QUARTER: 0.8, SIXTEENTH: 0.9}, **crowded}, full_noise=0.79)
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    assert draw_png(summarise(load_study([tmp_path]), num_resamples=0), tmp_path / "report.png")
    drawn[0].draw_without_rendering()
    labels = [t for t in drawn[0].axes[0].texts if isinstance(t, Annotation)]
    assert len(labels) == 8
    for label in labels:
        assert label.arrow_patch is not None
        line = label.arrow_patch.get_transform().transform_path(label.arrow_patch.get_path())
        crossed = [
            other.get_text()
            for other in labels
            if other is not label and line.intersects_bbox(Text.get_window_extent(other), False)
        ]
        assert crossed == [], label.get_text()


def test_findings_name_the_best_method_per_budget(summary: Summary) -> None:
    lines = findings(summary)
    assert len(lines) == 2
    assert all("mixed has the highest mean test AUC" in line for line in lines)
    assert "4 times fewer bytes" in lines[0]


def test_the_fragment_goes_between_the_markers(tmp_path: Path, summary: Summary) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb\n")
    assert insert_fragment(readme, markdown_fragment(summary))
    text = readme.read_text()
    assert text.startswith("# a\n<!-- results:begin -->\n| Method")
    assert text.endswith("\n<!-- results:end -->\nb\n")
    assert "\nold\n" not in text
    assert not insert_fragment(readme, markdown_fragment(summary)), "nothing changed this time"
    readme.write_text("# a\n")
    with pytest.raises(ValueError, match="must hold the line '<!-- results:begin -->' once"):
        insert_fragment(readme, "x")


# -- labels do not overlap -----------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.1, 20))
def test_spread_keeps_order_distance_and_range(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap, 0, 100)
    room = min(gap, 100 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    sorted_places = [places[i] for i in order]
    assert all(b - a >= room - 1e-6 for a, b in pairwise(sorted_places))
    assert sorted_places[0] >= -1e-6
    assert sorted_places[-1] <= 100 + 1e-6


def test_spread_leaves_alone_what_does_not_overlap() -> None:
    assert spread([10, 50, 30], 5, 0, 100) == [10, 50, 30]
    assert spread([50, 50], 10, 0, 100) == [45, 55]
