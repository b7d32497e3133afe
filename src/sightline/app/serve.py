"""The app in this process, until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from sightline.app.spec import UPLOAD, AppSpec

# read when gradio is imported
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

import gradio
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from sightline import __version__
from sightline.app.desk import Desk
from sightline.app.folders import Folders, page_title
from sightline.app.guard import LOGIN, Gate
from sightline.app.page import HEAD, THEME, build_page
from sightline.app.speakers import Speaker
from sightline.errors import DataError
from sightline.evaluation.known import Annotated
from sightline.report.fragments import stylesheet
from sightline.services.serve import address_of, bound_socket, web_server

PAGE = "/page"
_GRACE = 3
"""Seconds that a stop waits for requests under way."""
_FRAMED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"


def serve(
    spec: AppSpec,
    folders: Folders,
    load: Callable[[], Sequence[Speaker]],
    know: Callable[[], Sequence[Annotated]],
    *,
    on_start: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM. Runs that were resumed from it go on.

    Args:
        spec: Where.
        folders: All that is read and written.
        load: Brings the models, once the address is ours.
        know: Brings the benchmarks whose pictures are known.
        on_start: Told the address once connections are taken.

    Raises:
        RecipeError: The address cannot be bound, or a model is not there.
    """
    scratch = Path(tempfile.mkdtemp(prefix="sightline-app-"))
    os.environ["GRADIO_TEMP_DIR"] = str(scratch / "uploads")
    try:
        with bound_socket(spec.host, spec.port) as bound:
            annotated = tuple(know())
            desk = Desk(folders=folders, speakers=tuple(load()), scratch=scratch, annotated=annotated)
            app = build_app(desk, spec.token)
            bound.listen(128)
            address = address_of(bound)
            on_start(f"{address}{LOGIN}?token=..." if spec.token else address)
            server_of(desk, app).run(sockets=[bound])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def server_of(desk: Desk, app: Gate) -> uvicorn.Server:
    """The web server. When it stops, answers that grow end at their next word, and pages are let go."""

    def stop() -> None:
        for speaker in desk.speakers:
            speaker.ended.set()
        app.closing.set()

    return web_server(app, desk.bounds, grace=_GRACE, on_stop=stop)


def build_app(desk: Desk, token: str) -> Gate:
    """The app as an ASGI application, guarded."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        shutil.rmtree(desk.scratch, ignore_errors=True)  # what stands behind a web server is not reached after SIGTERM

    options: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(title="Sightline", version=__version__, lifespan=lifespan, **options)

    @app.get(PAGE)
    def page(path: str) -> HTMLResponse:
        """A page that Sightline wrote, for a frame: no script of it runs."""
        try:
            found = page_of(desk, path)
        except DataError as error:
            raise HTTPException(404, str(error)) from error
        text = found.read_text(encoding="utf-8", errors="replace")
        return HTMLResponse(text, headers={"Content-Security-Policy": _FRAMED})

    pages = build_page(desk, framed)
    pages.has_launched = True  # or a mounted page takes any file of this machine for one that was uploaded
    gradio.mount_gradio_app(
        app,
        pages,
        path="/",
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=desk.bounds.picture,
        theme=THEME,
        css=stylesheet(),
        head=HEAD,
        app_kwargs=options,
    )
    return Gate(app=app, token=token, most=UPLOAD)


def framed(path: Path) -> str:
    """The address of a page."""
    return f"{PAGE}?{urllib.parse.urlencode({'path': str(path)})}"


def page_of(desk: Desk, path: str) -> Path:
    """
    Raises:
        DataError: outside of the folders, or no page of Sightline.
    """
    real = Path(path).resolve() if "\0" not in path else desk.scratch
    if real.parent != desk.scratch.resolve():
        real = desk.folders.inside(path)
    if real.suffix != ".html" or not real.is_file() or page_title(real) is None:
        raise DataError("is no page that Sightline wrote", source=path, remedy="Look for pages again")
    return real
