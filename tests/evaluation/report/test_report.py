"""Results: columns by their settings, tables, plots, and a page that needs nothing else."""

import base64
import re

import numpy as np
import pytest

from latent_shift.evaluation.features.files import Features
from latent_shift.evaluation.features.moments import Moments
from latent_shift.evaluation.features.passing import Measured, Pixels
from latent_shift.evaluation.features.settings import FeatureSettings, Provenance
from latent_shift.evaluation.report import figures
from latent_shift.evaluation.report.figures import Choices, all_figures, captions_of
from latent_shift.evaluation.report.model import Column, Figure, Report, Subject, join, read_report
from latent_shift.evaluation.report.page import Shown, page
from latent_shift.evaluation.report.plots import Line, curves, line_plot, ticks
from latent_shift.evaluation.report.tables import cell, markdown, number


def report_of(value=1.0, name="a", title="one", subject=None, **made_with):
    column = Column(metric="FVD (i3d)", better="lower", made_with={"clips": 8, **made_with})
    figure = Figure(value=value, low=value - 0.5, high=value + 0.5)
    one = Subject(name=name, made_with=subject or {}, figures={column.key: figure})
    return Report(title=title, columns=[column], subjects=[one], circumstances={"date": "d"})


def test_equal_columns_become_one_and_others_stand_apart():
    same = join([report_of(1, "a"), report_of(2, "b")], "both")
    assert len(same.columns) == 1
    assert [subject.name for subject in same.subjects] == ["a", "b"]
    apart = join([report_of(1, "a"), report_of(2, "a", antialias=False)], "both")
    assert len(apart.columns) == 2
    assert [len(subject.figures) for subject in apart.subjects] == [2]  # one subject, two figures
    told = markdown(apart)
    assert "[2] differs from its namesakes by antialias False" in told
    assert "| clips | FVD (i3d) ↓ [1] | FVD (i3d) ↓ [2] |" in told
    with pytest.raises(ValueError, match="no results"):
        join([], "none")


def test_a_result_file_comes_back(tmp_path):
    report = report_of()
    (tmp_path / "r.json").write_text(report.model_dump_json())
    assert read_report(tmp_path / "r.json") == report
    (tmp_path / "x.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="is no result"):
        read_report(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no such result"):
        read_report(tmp_path / "none.json")


def test_numbers_are_printed_with_digits_that_say_something():
    assert [number(value) for value in (1234.56, 12.3456, 1.23456, 0.0123456, -0.000123, 1e-15)] == [
        "1234.6", "12.35", "1.235", "0.0123", "-1.2e-04", "0.0000",
    ]  # fmt: skip
    column = Column(metric="colour", better="higher", made_with={}, percent=True)
    assert cell(column, Figure(value=0.5, low=0.4, high=0.6)) == "50.0 % (40.0-60.0)"
    assert cell(column, None) == ""


def test_the_page_needs_nothing_else_and_its_clips_play():
    clips = np.random.default_rng(0).integers(0, 255, (2, 4, 16, 16, 3), dtype=np.uint8)
    large = np.zeros((3, 130, 132, 3), np.uint8)
    shown = [Shown("a <red> star", "real", clips[0]), Shown("a <red> star", "model", clips[1], "wrong"),
             Shown("b", "model", large)]  # fmt: skip
    html = page(report_of(), shown)
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "a &lt;red&gt; star" in html
    found = [base64.b64decode(data) for data in re.findall(r"data:image/webp;base64,([^\"]+)", html)]
    assert [data[8:12] for data in found] == [b"WEBP"] * 2
    assert all(b"ANIM" in data for data in found)
    assert b"ftyp" in base64.b64decode(re.findall(r"data:video/mp4;base64,([^\"]+)", html)[0])[:16]


def test_curves_over_guidance_are_drawn_a_line_a_model():
    reports = [
        report_of(value, f"{model} {guidance}", subject={"model": model, "guidance": guidance, "steps": 20})
        for model, guidance, value in (("m", 1, 3), ("m", 4, 2), ("n", 1, 5), ("n", 4, 1), ("o", 4, 1))
    ]
    (drawn,) = curves(join(reports, "all"))
    assert drawn.count("<polyline") == 5 + 2  # axes and lines; one point makes no line
    assert "FVD (i3d) over guidance" in drawn
    assert curves(report_of()) == []
    with pytest.raises(ValueError, match="no points"):
        line_plot("x", "x", "y", [Line("a")])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.25, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0, 0.497], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ([1, 7.5], [0, 2, 4, 6, 8]),
        ([-0.004, 0.031], [-0.01, 0, 0.01, 0.02, 0.03, 0.04]),
        ([16], [15, 20]),
        ([0, 0], [0, 0.2]),
        ([10, 20, 30, 40, 50], [10, 20, 30, 40, 50]),
    ],
)
def test_axes_have_round_numbers_around_all_values(values, expected):
    assert ticks(values) == expected


def measured(rows, seed=0, **changes):
    settings = FeatureSettings(
        extractor="eyes", layer="all", weights="0" * 12, per="clip", side=8, resize="bilinear",
        antialias=True, fit="exact", frames=4, fps="own",
    ).model_copy(update=changes)  # fmt: skip
    names = tuple(f"{number}.mp4" for number in range(len(rows)))
    features = Features(
        settings, Provenance(source="s", clips=len(rows)), names, Moments.of(rows), rows, rows * 3
    )
    pixels = Pixels([1.0] * len(rows), [2.0] * len(rows))
    return Measured("s", {"eyes": features}, pixels, list(names))


def test_all_figures_of_a_set_with_intervals():
    chance = np.random.default_rng(0)
    real, other = (chance.normal(size=(30, 5)).astype(np.float32) for _ in range(2))
    texts = {"eyes": other + 0.1}
    choices = Choices(resamples=10)
    found = all_figures(measured(other), measured(real), texts, choices)
    values = {column.metric: figure for column, figure in found.values()}
    assert set(values) == {"FVD (eyes)", "KVD (eyes)", "IS (eyes)", "CLIPSIM (eyes)", "flicker", "motion"}
    assert values["flicker"] == Figure(value=1.0, low=1.0, high=1.0)
    assert values["CLIPSIM (eyes)"].value > 0.9
    fvd = values["FVD (eyes)"]
    assert fvd.low < fvd.value < fvd.high
    again = all_figures(measured(other), measured(real), texts, choices)
    assert again == found
    columns = {column.metric: column for column, _ in found.values()}
    assert columns["FVD (eyes)"].made_with["reference clips"] == 30
    assert columns["FVD (eyes)"].made_with["antialias"] is True


def test_a_kernel_distance_over_subsets_goes_without_an_interval(monkeypatch):
    monkeypatch.setattr(figures, "SUBSET_SIZE", 20)
    rows = np.random.default_rng(0).normal(size=(21, 2)).astype(np.float32)
    found = all_figures(measured(rows), measured(rows[::-1].copy()), choices=Choices(resamples=2))
    values = {column.metric: figure for column, figure in found.values()}
    assert values["KVD (eyes)"].low is None
    assert values["FVD (eyes)"].low is not None


def test_a_reference_of_other_settings_is_refused():
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=r"cannot be compared: frames \(8 and 4\)"):
        all_figures(measured(rows), measured(rows, frames=8))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_clip_counts_and_references_are_other_columns():
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    keys = [
        set(all_figures(measured(some), measured(real), choices=Choices(resamples=0)))
        for some, real in ((rows, rows), (rows[:8], rows), (rows, rows[:8]))
    ]
    assert not keys[0] & keys[1]
    assert len(keys[0] & keys[2]) == 3  # the score and the pixels' two have no reference


def test_missing_captions_are_named():
    assert captions_of(["a"], {"a": "x"}) == ["x"]
    with pytest.raises(ValueError, match=r"b: has no caption; put one into a \.txt"):
        captions_of(["a", "b"], {"a": "x"})
