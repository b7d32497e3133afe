"""JSON files that are one value: annotations, tables, submissions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.files import replace_file

LONE_SURROGATES: Final = "backslashreplace"
"""How half a character (a cut emoji, ``"\\ud83d"``) is written to UTF-8: as JSON writes it, so that it can be read."""


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: The file cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(path), remedy="Correct the path") from error
    except UnicodeDecodeError as error:
        found = f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"
        raise DataError(found, source=str(path), remedy="Save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits as well
        found = "not JSON (nested too deeply)" if isinstance(error, RecursionError) else f"not JSON ({error})"
        raise DataError(found, source=str(path), remedy="Correct the file, or download it again") from error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: The file cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(path), remedy="Correct the path") from error
    except UnicodeDecodeError as error:
        found = f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"
        raise DataError(found, source=str(path), remedy="Save the file as UTF-8") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, folders included."""
    replace_file(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n", errors=LONE_SURROGATES)
