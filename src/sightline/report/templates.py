"""The templates of all pages, beside this file, and how they are filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill_template(name: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """A page: texts are escaped, and a value that the template reads and nobody gives is an error.

    Args:
        name: of the template (``page.html.j2``).
        filters: by the names that it calls them by.
        values: what it shows.
    """
    environment = Environment(
        loader=PackageLoader("sightline.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(**values)
