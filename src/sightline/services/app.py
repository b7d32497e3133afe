"""The routes that every service has, and how errors are told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sightline import __version__
from sightline.errors import shortened
from sightline.services.batching import Batcher, Refused
from sightline.services.bounds import Bounds
from sightline.services.guard import OPEN, Guard, error_body, error_headers
from sightline.services.metrics import Metrics
from sightline.services.pictures import Pictures
from sightline.services.wire import Health

_TOLD = 3
"""Faults of a body that a refusal names."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service: its name, what it serves, its routes and what works behind them."""

    name: str
    """``judge``, ``describe``, ``image`` or ``reward``."""
    model: str
    """As clients name it."""
    router: APIRouter
    batcher: Batcher[Any, Any]
    pictures: Pictures
    bounds: Bounds
    metrics: Metrics
    token: str = field(default="", repr=False)


def build_app(service: Service) -> Guard:
    """The service as an ASGI application, guarded."""

    @asynccontextmanager
    async def lifespan(_: FastAPI):  # type: ignore[no-untyped-def]
        with service.pictures.kept():
            async with service.batcher.running():
                yield

    app = FastAPI(
        title=f"Sightline {service.name}", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.include_router(service.router)
    app.include_router(_common(service))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Refused, _refused)
    service.metrics.gauges.update(waiting=lambda: service.batcher.waiting, busy_seconds=lambda: _busy(service))
    routes = [route.path for router in (service.router, _common(service)) for route in router.routes]  # type: ignore[attr-defined]
    guard = Guard(app=app, token=service.token, bounds=service.bounds, metrics=service.metrics, routes=routes)
    service.metrics.gauges["held_bytes"] = lambda: guard.held
    return guard


def _busy(service: Service) -> float:
    return service.batcher.busy_seconds


def _common(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get(OPEN)
    async def health(response: Response) -> Health:
        """Whether it answers: 200, or 503 where the work in progress takes longer than any request may."""
        busy = service.batcher.busy_seconds
        stuck = busy > service.bounds.seconds
        response.status_code = 503 if stuck else 200
        return Health(
            status="stuck" if stuck else "ok",
            service=service.name,
            model=service.model,
            version=__version__,
            waiting=service.batcher.waiting,
            busy_seconds=round(busy, 3),
        )

    @router.get("/metrics")
    async def metrics() -> Response:
        """Counts, as Prometheus reads them."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _error(status: int, message: str) -> Response:
    return Response(error_body(status, message), status, error_headers(status), "application/json")


async def _invalid(_: Request, error: Exception) -> Response:
    """Names what is wrong with a body, without a word of its own: it may be large, or no text."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{shortened('.'.join(map(str, fault['loc'])), 100)}: {fault['msg']}" for fault in error.errors()[:_TOLD]]
    return _error(422, "; ".join(faults))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error.status, error.message)
