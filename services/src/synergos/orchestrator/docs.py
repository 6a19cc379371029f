"""The OpenAPI pages of the three phases, complete without internet."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from synergos.rest import API_VERSION

_ASSETS = "/swaggerui"
# The newest that the bundled Swagger UI renders.
_OPENAPI = "3.0.3"


def mount_docs(app: FastAPI, phases: dict[str, list[APIRouter]]) -> None:
    """Serve the page and `swagger.json` of each phase (title → routers) below the prefix of its first router."""
    app.mount(_ASSETS, StaticFiles(directory=swagger_ui_path))
    for title, routers in phases.items():
        _mount(app, title, routers)


def _mount(app: FastAPI, title: str, routers: list[APIRouter]) -> None:
    prefix = routers[0].prefix

    @cache
    def description() -> dict[str, Any]:
        return _describe(title, routers)

    @app.get(prefix, include_in_schema=False)
    def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=f"{prefix}/swagger.json",
            title=title,
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png",
        )

    @app.get(f"{prefix}/swagger.json", include_in_schema=False)
    def openapi() -> JSONResponse:
        return JSONResponse(description())


def _describe(title: str, routers: list[APIRouter]) -> dict[str, Any]:
    routes = [route for router in routers for route in router.routes]
    result = get_openapi(title=title, version=API_VERSION, openapi_version=_OPENAPI, routes=routes)
    for path in result["paths"].values():
        for operation in path.values():
            # FastAPI announces its own error, which this API never sends.
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "An error: {status, message, success: 0, data: []}"}
    for unused in ("HTTPValidationError", "ValidationError"):
        result["components"]["schemas"].pop(unused, None)
    return result
