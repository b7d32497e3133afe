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


def written(cells):
    """A sheet of one header and rows of raw cells."""
    head = "".join(f'<c t="inlineStr"><is><t>{name}</t></is></c>' for name in ("index", "text"))
    rows = "".join(f"<row>{row}</row>" for row in (head, *cells))
    return f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'


def test_the_first_sheet_is_the_one_that_the_workbook_lists_first(tmp_path):
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    links = "".join(f'<Relationship Id="r{n}" Target="worksheets/sheet{n}.xml"/>' for n in (1, 2))
    with zipfile.ZipFile(tmp_path / "d.xlsx", "w") as book:
        sheets = "".join(f'<sheet name="{n}" sheetId="{n}" r:id="r{n}"/>' for n in (2, 1))
        book.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{office}"><sheets>{sheets}</sheets></workbook>'
        )
        book.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{links}</Relationships>")
        for number in (1, 2):
            cell = f"<c><v>{number}</v></c>"
            book.writestr(f"xl/worksheets/sheet{number}.xml", written([cell + cell]))
    assert read_sheet(tmp_path / "d.xlsx") == [{"index": "2", "text": "2"}]


def test_cells_that_are_not_what_they_look_like(tmp_path):
    """Writers of pandas store "=5" as a formula; Japanese texts say beside them how they are pronounced."""
    spoken = '<c t="inlineStr"><is><t>東京</t><rPh sb="0" eb="2"><t>トウキョウ</t></rPh></is></c>'
    cells = {
        "<c><f>5</f><v></v></c>": "=5",
        '<c t="b"><v>1</v></c>': True,
        '<c t="e"><v>#N/A</v></c>': None,
        spoken: "東京",
    }
    with zipfile.ZipFile(tmp_path / "e.xlsx", "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", written(f"<c><v>1</v></c>{cell}" for cell in cells))
    assert [row["text"] for row in read_sheet(tmp_path / "e.xlsx")] == list(cells.values())
