"""The OpenAPI pages."""

from __future__ import annotations

import re

from grid_double import PlainClient

# phase → routes that the original has there, and two of jobs
PHASES = {"connect": 19, "train": 5 + 2, "evaluate": 8}


def test_pages_need_no_internet_and_describe_every_route(client: PlainClient) -> None:
    for phase, paths in PHASES.items():
        page = client("GET", f"{phase}/")
        assert page.headers["content-type"].startswith("text/html")
        assert "http" not in page.text
        for link in re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text):
            assert client.raw(method="GET", url=link).status_code == 200, link
        description = client("GET", f"{phase}/swagger.json").json()
        assert description["openapi"].startswith("3.0."), "the bundled Swagger UI renders no later version"
        assert f"url: '/ttp/{phase}/swagger.json'" in page.text
        assert len(description["paths"]) == paths
        assert "HTTPValidationError" not in str(description)
        # Every reference leads somewhere.
        for name in re.findall(r"#/components/schemas/(\w+)", str(description)):
            assert name in description["components"]["schemas"]


def test_health(client: PlainClient) -> None:
    answer = client.raw(method="GET", url="/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
