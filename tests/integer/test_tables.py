"""Rows for people: in notebooks, pandas, CSV and LaTeX, with signs that mean something there."""

import csv
import dataclasses
import io
import sys

import pytest

from keras_qat.integer.tables import Table


@dataclasses.dataclass(frozen=True)
class Layers(Table):
    rows: tuple
    table_head = ("layer", "bits", "share", "note")

    @property
    def table_rows(self):
        return self.rows


LAYERS = Layers((("conv_1", 4, 0.12345, "a, b & <c>"), ("head", 12345, None, None)))


def test_csv_has_numbers_as_they_are(tmp_path):
    text = LAYERS.to_csv(tmp_path / "layers.csv")
    assert (tmp_path / "layers.csv").read_text() == text
    assert list(csv.reader(io.StringIO(text))) == [
        ["layer", "bits", "share", "note"],
        ["conv_1", "4", "0.12345", "a, b & <c>"],
        ["head", "12345", "", ""],
    ]


def test_latex_escapes_and_aligns(tmp_path):
    text = LAYERS.to_latex(tmp_path / "layers.tex")
    assert (tmp_path / "layers.tex").read_text() == text
    assert text.splitlines() == [
        r"\begin{tabular}{lrrl}",
        r"\toprule",
        r"layer & bits & share & note \\",
        r"\midrule",
        r"conv\_1 & 4 & 0.1235 & a, b \& <c> \\",
        r"head & 12,345 &  &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_notebook_shows_the_rows_as_text():
    page = LAYERS._repr_html_()
    assert page.count("<tr>") == 3
    assert "<td>a, b &amp; &lt;c&gt;</td>" in page


def test_a_table_without_rows_has_a_head():
    empty = Layers(())
    assert empty.to_csv() == "layer,bits,share,note\n"
    assert r"\begin{tabular}{llll}" in empty.to_latex()
    assert empty._repr_html_().count("<th>") == 4


def test_a_data_frame_has_the_columns():
    pandas = pytest.importorskip("pandas")
    frame = LAYERS.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(LAYERS.table_head)
    assert frame["bits"].tolist() == [4, 12345]


def test_without_pandas_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_dataframe needs pandas: pip install pandas"):
        LAYERS.to_dataframe()
