"""One sheet of texts and numbers as an .xlsx file: the submission format of MMStar and VLMEvalKit.

Only what those files hold: the first sheet, a header row, cells of text and numbers (ECMA-376 part 1, 18.3).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from sightline.errors import DataError
from sightline.evaluation.tables import check_columns
from sightline.files import replacing

_MAIN: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_HEAD: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_KIND: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS: Final = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_KIND}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_KIND}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that XML cannot hold."""
_CODED: Final = re.compile("_x([0-9A-Fa-f]{4})_")


def write_sheet(path: Path, rows: Sequence[Mapping[str, str | int | float]]) -> None:
    """Rows as the only sheet of a workbook; the columns are those of the first row.

    Characters that XML cannot hold are written as the format codes them, ``_x000B_``.
    """
    names = list(rows[0]) if rows else []
    lines: list[Sequence[Any]] = [names, *([row[name] for name in names] for row in rows)]
    body = "".join(f"<row>{''.join(map(_cell, line))}</row>" for line in lines)
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in _PARTS.items():
            book.writestr(name, _HEAD + content)
        sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{body}</sheetData></worksheet>'
        book.writestr("xl/worksheets/sheet1.xml", _HEAD + sheet)


def read_sheet(path: Path) -> list[dict[str, str | bool | None]]:
    """The rows of the first sheet as text, under the names of its first row; empty cells are empty texts.

    A text that begins with ``=`` is stored as a formula by the writers of pandas: it is that text again. Truth values
    stay what they are, and the error of a cell is None.

    Raises:
        DataError: It is no workbook, or a name stands over two columns.
    """
    try:
        with zipfile.ZipFile(path) as book:
            shared = _shared_texts(book)
            sheet = ElementTree.fromstring(book.read(_first_sheet(book)))
            rows = [_row(row, shared) for row in sheet.iter(f"{{{_MAIN}}}row")]
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, IndexError, ElementTree.ParseError, OSError) as error:
        raise DataError(f"no workbook ({error})", source=str(path), remedy="Expected an .xlsx file") from error
    if not rows:
        return []
    names = {place: str(name) for place, name in rows[0].items()}
    check_columns([name for name in names.values() if name], str(path))
    return [{name: row.get(place, "") for place, name in names.items()} for row in rows[1:] if row]


def _cell(value: str | int | float) -> str:
    if isinstance(value, int | float):
        return f"<c><v>{value}</v></c>"
    text = _CODED.sub(lambda match: f"_x005F_{match[0][1:]}", value)
    text = _FORBIDDEN.sub(lambda match: f"_x{ord(match[0]):04X}_", text).replace("\r", "_x000D_")
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'


def _first_sheet(book: zipfile.ZipFile) -> str:
    """The part that holds the first sheet of the workbook; its name does not say which it is."""
    if "xl/_rels/workbook.xml.rels" not in book.namelist():
        return "xl/worksheets/sheet1.xml"
    sheets = ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{{{_MAIN}}}sheet")
    first = next(sheets, ElementTree.Element("none")).get(f"{{{_OFFICE}}}id")
    links = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    target = next((str(one.get("Target")) for one in links if one.get("Id") == first), "worksheets/sheet1.xml")
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _row(row: ElementTree.Element, shared: Sequence[str]) -> dict[int, str | bool | None]:
    cells: dict[int, str | bool | None] = {}
    for place, cell in enumerate(row.iter(f"{{{_MAIN}}}c")):
        if reference := cell.get("r"):
            place = _column_number(reference)
        value, formula = cell.find(f"{{{_MAIN}}}v"), cell.find(f"{{{_MAIN}}}f")
        if formula is not None and formula.text:
            cells[place] = f"={formula.text}"
        elif cell.get("t") == "inlineStr":
            cells[place] = _text(cell)
        elif value is not None and value.text is not None:
            cells[place] = _value(value.text, cell.get("t"), shared)
    return cells


def _value(text: str, kind: str | None, shared: Sequence[str]) -> str | bool | None:
    if kind == "b":
        return text == "1"
    if kind == "e":
        return None
    return shared[int(text)] if kind == "s" else text


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    tree = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
    return [_text(item) for item in tree.iter(f"{{{_MAIN}}}si")]


def _text(element: ElementTree.Element) -> str:
    """Of a cell: its text or the texts of its runs, without how they are pronounced (``rPh``)."""
    runs = [element, *element.iter(f"{{{_MAIN}}}r"), *element.iter(f"{{{_MAIN}}}is")]
    text = "".join(part.text or "" for run in runs for part in run.findall(f"{{{_MAIN}}}t"))
    return _CODED.sub(lambda match: chr(int(match[1], 16)), text)


def _column_number(reference: str) -> int:
    """``B7`` is 1."""
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1
