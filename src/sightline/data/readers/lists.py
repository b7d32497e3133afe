"""The elements of a JSON list, one by one: a list of a million rows is never whole in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from sightline.data.readers.rows import Element, RowError
from sightline.errors import DataError

_EXPECTED = "Expected a list of objects, or one object on every line"
_CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\n\r]*")
_SCAN = json.JSONDecoder()


def elements(file: BinaryIO, path: str) -> Iterator[Element]:
    """The elements of the list that a file holds; each is parsed again, and looked at, only when its row is.

    Raises:
        DataError: It is no UTF-8, or no JSON; found when the reading comes there. Names the place in the file.
    """
    text = _Text(file, path)
    text.expect("[", "Expecting value")
    if text.takes("]"):
        text.end()
        return
    while True:
        yield Element(text.element())
        if text.takes("]"):
            break
        text.expect(",", "Expecting ',' delimiter")
    text.end()


class _Text:
    """What was read of a file and not yet taken."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._whole = "", 0, False
        self._gone, self._lines, self._line_start = 0, 0, 0
        """Characters and line breaks before ``_text``, and where the last line that begins there begins."""

    def element(self) -> str:
        """The text of the value that stands next."""
        self._skip()
        size = _CHUNK
        while True:
            try:
                _, end = _SCAN.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._more(size):
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._refused("not JSON (nested too deeply)") from error
            except ValueError as error:  # a whole number of thousands of digits
                raise self._refused(f"not JSON ({error})") from error
            else:
                if end < len(self._text) or not self._more(size):
                    found, self._place = self._text[self._place : end], end
                    return found
            size *= 2

    def takes(self, mark: str) -> bool:
        """Whether a mark stands next; it is taken."""
        self._skip()
        found = self._text.startswith(mark, self._place)
        self._place += found
        return found

    def expect(self, mark: str, message: str) -> None:
        if not self.takes(mark):
            raise self._error(message, self._place)

    def end(self) -> None:
        """Nothing stands behind the list."""
        self._skip()
        if self._place < len(self._text):
            raise self._error("Extra data", self._place)

    def _skip(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._place)
            assert found is not None
            self._place = found.end()
            if self._place < len(self._text) or not self._more(_CHUNK):
                return

    def _more(self, size: int) -> bool:
        """Reads on, and forgets what was taken; False: the file is at its end."""
        if self._whole:
            return False
        self._gone += self._place
        breaks = self._text.count("\n", 0, self._place)
        if breaks:
            self._lines += breaks
            self._line_start = self._gone - self._place + self._text.rfind("\n", 0, self._place) + 1
        data = self._file.read(size)
        self._whole = not data
        try:
            self._text = self._text[self._place :] + self._decoder.decode(data, final=self._whole)
        except UnicodeDecodeError as error:
            line = self._lines + self._text.count("\n", self._place) + error.object.count(b"\n", 0, error.start)
            place = f"byte {error.object[error.start]:#04x}" + (f" in line {line + 1}" if line else "")
            raise self._refused(f"not UTF-8 text ({place})", "Store the file as UTF-8") from error
        self._place = 0
        return True

    def _error(self, message: str, place: int) -> DataError:
        line = self._lines + self._text.count("\n", 0, place)
        start = self._text.rfind("\n", 0, place) + 1 + self._gone if line > self._lines else self._line_start
        whole = self._gone + place
        return self._refused(f"not JSON ({message}: line {line + 1} column {whole - start + 1} (char {whole}))")

    def _refused(self, found: str, remedy: str = _EXPECTED) -> DataError:
        return RowError("malformed", found, source=self._path, remedy=remedy)
