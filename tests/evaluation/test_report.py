"""Results: columns by their settings, tables, plots, and a page that needs nothing else."""

import base64
import re

import matplotlib
import numpy as np
import pytest

from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.extractors.base import ExtractorInfo
from latent_shift.evaluation.features import Features, FeatureSettings, Moments, Provenance, SourceFeatures
from latent_shift.evaluation.metrics import DEFAULT_METRICS, METRICS, distances
from latent_shift.evaluation.metrics.base import MetricOptions, NotAvailable
from latent_shift.evaluation.page import render_html
from latent_shift.evaluation.plots import STYLE, Line, curves, line_figure, line_plot
from latent_shift.evaluation.report import (
    Example,
    MetricInfo,
    MetricResult,
    Report,
    Row,
    format_number,
    format_result,
    join_reports,
    markdown,
    read_report,
)
from latent_shift.evaluation.sources import ClipBatch


def report_of(value=1.0, name="a", title="one", row=None, **settings):
    metric = MetricInfo(name="FVD (i3d)", better="lower", settings={"clips": 8, **settings})
    result = MetricResult(value=value, low=value - 0.5, high=value + 0.5)
    one = Row(name=name, settings=row or {}, results={metric.key: result})
    return Report(title=title, metrics=[metric], rows=[one], environment={"date": "d"})


def test_equal_columns_become_one_and_others_stand_apart():
    same = join_reports([report_of(1, "a"), report_of(2, "b")], "both")
    assert len(same.metrics) == 1
    assert [row.name for row in same.rows] == ["a", "b"]
    apart = join_reports([report_of(1, "a"), report_of(2, "a", antialias=False)], "both")
    assert len(apart.metrics) == 2
    assert [len(row.results) for row in apart.rows] == [2]  # one row, two results
    told = markdown(apart)
    assert "[2] differs from its namesakes by antialias False" in told
    assert "| clips | FVD (i3d) ↓ [1] | FVD (i3d) ↓ [2] |" in told
    assert list(apart.environment) == ["one: date", "one (2): date"]  # none takes another's place
    with pytest.raises(ValueError, match="no results"):
        join_reports([], "none")


def test_a_result_file_comes_back(tmp_path):
    report = report_of()
    (tmp_path / "r.json").write_text(report.model_dump_json())
    assert read_report(tmp_path / "r.json") == report
    (tmp_path / "x.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="is no result"):
        read_report(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no such result"):
        read_report(tmp_path / "none.json")


def test_a_result_file_of_the_old_keys_is_read(tmp_path):
    """Reports written before the keys were renamed; for one release."""
    (tmp_path / "r.json").write_text(
        """{"title": "one",
        "columns": [{"metric": "FVD (i3d)", "better": "lower", "made_with": {"clips": 8}, "percent": false}],
        "subjects": [{"name": "a", "made_with": {"steps": 4},
                      "figures": {"FVD (i3d) 1be5e3e6": {"value": 1.0, "low": 0.5, "high": 1.5}}}],
        "circumstances": {"date": "d"}, "notes": []}"""
    )
    key = report_of().metrics[0].key
    text = (tmp_path / "r.json").read_text().replace("FVD (i3d) 1be5e3e6", key)
    (tmp_path / "r.json").write_text(text)
    assert read_report(tmp_path / "r.json") == report_of(row={"steps": 4})


def test_numbers_are_printed_with_digits_that_say_something():
    assert [format_number(value) for value in (1234.56, 12.3456, 1.23456, 0.0123456, -0.000123, 1e-15)] == [
        "1234.6", "12.35", "1.235", "0.0123", "-1.2e-04", "0.0000",
    ]  # fmt: skip
    metric = MetricInfo(name="colour", better="higher", settings={}, percent=True)
    assert format_result(metric, MetricResult(value=0.5, low=0.4, high=0.6)) == "50.0 % (40.0-60.0)"
    assert format_result(metric, None) == ""


def test_the_page_needs_nothing_else_and_its_clips_play():
    clips = np.random.default_rng(0).integers(0, 255, (2, 4, 16, 16, 3), dtype=np.uint8)
    large = np.zeros((3, 130, 132, 3), np.uint8)
    shown = [Example("a <red> star", "real", clips[0]), Example("a <red> star", "model", clips[1], "wrong"),
             Example("b", "model", large)]  # fmt: skip
    html = render_html(report_of().model_copy(update={"examples": shown}))
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "a &lt;red&gt; star" in html
    found = [base64.b64decode(data) for data in re.findall(r"data:image/webp;base64,([^\"]+)", html)]
    assert [data[8:12] for data in found] == [b"WEBP"] * 2
    assert all(b"ANIM" in data for data in found)
    assert b"ftyp" in base64.b64decode(re.findall(r"data:video/mp4;base64,([^\"]+)", html)[0])[:16]


def test_curves_over_guidance_are_drawn_a_line_a_model():
    reports = [
        report_of(value, f"{model} {guidance}", row={"model": model, "guidance": guidance, "steps": 20})
        for model, guidance, value in (("m", 1, 3), ("m", 4, 2), ("n", 1, 5), ("n", 4, 1), ("o", 4, 1))
    ]
    (drawn,) = curves(join_reports(reports, "all"))
    assert re.findall('id="line-([^"]*)"', drawn) == ["m", "n"]  # one point makes no line
    assert curves(join_reports(reports, "all")) == [drawn]  # to the last byte
    html = render_html(join_reports(reports, "all"))
    assert drawn in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)  # nothing is loaded from elsewhere
    assert "FVD (i3d) over guidance" in drawn
    assert curves(report_of()) == []
    with pytest.raises(ValueError, match="no points"):
        line_plot("x", "x", "y", [Line("a")])


def test_names_of_lines_are_shown_as_they_are():
    svg = line_plot(
        "t", "x", "y", [Line("_draft", [(0, 1), (1, 2)]), Line("cost in $ or a$", [(0, 2), (1, 1)])]
    )
    assert ">_draft</text>" in svg
    assert ">cost in $ or a$</text>" in svg


def test_what_a_user_has_set_for_other_plots_changes_none_of_ours():
    lines = [Line("a", [(0, 1), (1, 2)])]
    plain = line_plot("t", "x", "y", lines)
    with matplotlib.rc_context(
        {"text.usetex": True, "font.size": 30, "axes.grid": True, "lines.linewidth": 5}
    ):
        assert line_plot("t", "x", "y", lines) == plain


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.25, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0, 0.497], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ([1, 7.5], [0, 2, 4, 6, 8]),
        ([-0.004, 0.031], [-0.01, 0, 0.01, 0.02, 0.03, 0.04]),
        ([10, 20, 30, 40, 50], [10, 20, 30, 40, 50]),
        ([16], None),
        ([0, 0], None),
    ],
)
def test_axes_have_round_numbers_around_all_values(values, expected):
    with matplotlib.rc_context(STYLE):
        (axes,) = line_figure("t", "x", "y", [Line("a", [(value, value) for value in values])]).axes
        limits = axes.get_xlim(), axes.get_ylim()
    for ticks, (low, high) in zip((axes.get_xticks(), axes.get_yticks()), limits, strict=True):
        shown = ticks[(low <= ticks) & (ticks <= high)]
        assert len(shown) >= 2
        assert low <= min(values) <= max(values) <= high
        if expected is not None:  # for one value any round numbers around it
            np.testing.assert_allclose(ticks, expected, atol=1e-12)
            assert (ticks[0], ticks[-1]) == (low, high)


def test_names_of_many_lines_stand_beside_the_plot_and_no_two_lines_look_alike():
    lines = [Line(str(number), [(0, number), (1, number)]) for number in range(14)]
    with matplotlib.rc_context(STYLE):
        (axes,) = line_figure("t", "x", "y", lines).axes
        axes.figure.draw_without_rendering()
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
        (axes,) = line_figure("t", "x", "y", lines[:6]).axes
        axes.figure.draw_without_rendering()
        assert axes.get_legend().get_window_extent().x1 <= axes.get_window_extent().x1
        (axes,) = line_figure("t", "x", "y", lines).axes
        looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 14


def features_of(rows, texts=None, **changes):
    settings = FeatureSettings(
        extractor="eyes", layer="all", weights="0" * 12, per="clip", side=8, resize="bilinear",
        antialias=True, fit="exact", frames=4, fps="own",
    ).model_copy(update=changes)  # fmt: skip
    names = [f"{number}.mp4" for number in range(len(rows))]
    features = Features(
        settings, Provenance(source="s", clips=len(rows)), tuple(names), Moments.of(rows), rows, rows * 3
    )
    captions = [None if texts is None else "a" for _ in names]
    texts = {} if texts is None else {"eyes": texts}
    return SourceFeatures("s", ClipReadOptions(4).settings(), {"eyes": features}, names, captions, texts)


def all_results(clips, reference, **options):
    """Every metric that the features allow, as (info, result) by key; each clip flickers by 1."""
    frames = np.zeros((len(clips.names), 4, 8, 8, 3), np.uint8)
    frames[:, 1::2] = 1
    found = {}
    for name in DEFAULT_METRICS:
        metric = METRICS[name](MetricOptions(**options))
        metric.update(ClipBatch(clips.names, frames, clips.captions))
        try:
            found |= {info.key: (info, result) for info, result in metric.compute(clips, reference)}
        except NotAvailable:
            assert name in ("fid", "kid", "clipsim")
    return found


def test_all_results_of_a_set_with_intervals():
    rng = np.random.default_rng(0)
    real, other = (rng.normal(size=(30, 5)).astype(np.float32) for _ in range(2))
    clips = features_of(other, other + 0.1)
    found = all_results(clips, features_of(real), resamples=10)
    values = {info.name: result for info, result in found.values()}
    assert set(values) == {"FVD (eyes)", "KVD (eyes)", "IS (eyes)", "CLIPSIM (eyes)", "flicker", "motion"}
    assert values["flicker"] == MetricResult(value=1.0, low=1.0, high=1.0)
    assert values["CLIPSIM (eyes)"].value > 0.9
    fvd = values["FVD (eyes)"]
    assert fvd.low < fvd.value < fvd.high
    again = all_results(clips, features_of(real), resamples=10)
    assert again == found
    metrics = {info.name: info for info, _ in found.values()}
    assert metrics["FVD (eyes)"].settings["reference clips"] == 30
    assert metrics["FVD (eyes)"].settings["antialias"] is True


def test_a_kernel_distance_over_subsets_goes_without_an_interval(monkeypatch):
    monkeypatch.setattr(distances, "SUBSET_SIZE", 20)
    rows = np.random.default_rng(0).normal(size=(21, 2)).astype(np.float32)
    found = all_results(features_of(rows), features_of(rows[::-1].copy()), resamples=2)
    values = {info.name: result for info, result in found.values()}
    assert values["KVD (eyes)"].low is None
    assert values["FVD (eyes)"].low is not None


def test_a_reference_of_other_settings_is_refused():
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=r"cannot be compared: frames \(8 and 4\)"):
        all_results(features_of(rows), features_of(rows, frames=8))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_clip_counts_and_references_are_other_columns():
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    keys = [
        set(all_results(features_of(some), features_of(real), resamples=0))
        for some, real in ((rows, rows), (rows[:8], rows), (rows, rows[:8]))
    ]
    assert not keys[0] & keys[1]
    assert len(keys[0] & keys[2]) == 3  # the score and the pixels' two have no reference


@pytest.mark.parametrize(("metric", "fact"), [("is", "classifies"), ("clipsim", "embeds_texts")])
def test_scores_need_extractors_of_their_kind(metric, fact):
    facts = ("all", "0" * 12, "frame", 3)
    plain, able = (
        ExtractorInfo(name, *facts, **{"classifies": False, fact: name == "able"})
        for name in ("plain", "able")
    )
    METRICS[metric](MetricOptions()).check([plain, able], False)
    METRICS[metric](MetricOptions(), "able").check([plain, able], False)
    for extractor, infos in ((None, [plain]), ("plain", [plain, able])):
        with pytest.raises(NotAvailable, match="needs an extractor that"):
            METRICS[metric](MetricOptions(), extractor).check(infos, False)


def test_missing_captions_are_named():
    rows = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    clips = features_of(rows, rows)
    metric = METRICS["clipsim"](MetricOptions(resamples=0))
    assert len(metric.compute(clips, None)) == 1
    clips.captions[1] = None
    with pytest.raises(ValueError, match=r"1\.mp4: has no caption; put one into a \.txt"):
        metric.compute(clips, None)
