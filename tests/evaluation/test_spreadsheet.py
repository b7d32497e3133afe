"""Workbooks: what is written is read back, and cells as other programs write them are understood."""

import zipfile

import pytest

from sightline.errors import DataError
from sightline.evaluation.spreadsheet import read_sheet, write_sheet

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def test_round_trip_of_awkward_texts(tmp_path):
    texts = ["plain", ' <a> & "b" ', "two\nlines", "tab\there", "bell\x07", "_x0041_", "ünïcode 答え 🙂", "cr\r\n"]
    write_sheet(tmp_path / "a.xlsx", [{"index": number, "text": text} for number, text in enumerate(texts)])
    assert read_sheet(tmp_path / "a.xlsx") == [{"index": str(n), "text": text} for n, text in enumerate(texts)]


def test_shared_texts_and_empty_cells(tmp_path):
    items = ("<t>index</t>", "<t>text</t>", "<r><t>rich</t></r><r><t>er</t></r>")
    shared = f'<sst xmlns="{MAIN}">{"".join(f"<si>{item}</si>" for item in items)}</sst>'
    sheet = (
        f'<worksheet xmlns="{MAIN}"><sheetData>'
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>'
        '<row r="2"><c r="B2" t="s"><v>2</v></c></row>'
        '<row r="3"><c r="A3"><v>7</v></c></row>'
        "</sheetData></worksheet>"
    )
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as book:
        book.writestr("xl/sharedStrings.xml", shared)
        book.writestr("xl/worksheets/sheet1.xml", sheet)
    assert read_sheet(tmp_path / "b.xlsx") == [{"index": "", "text": "richer"}, {"index": "7", "text": ""}]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "c.xlsx").write_text("no zip")
    with pytest.raises(DataError, match="no workbook"):
        read_sheet(tmp_path / "c.xlsx")
