"""What builds learn from the control node, and that it stays apart from everything that names an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.synergos.grid.plugins.plugin_utils import _build_settings as settings
from ansible_collections.synergos.grid.plugins.plugin_utils import _catalogue as catalogue


def test_pip_settings_take_the_environment_first_and_keep_lists() -> None:
    listed = [
        "global.index-url='https://global.example.org/simple'",
        "install.index-url='https://install.example.org/simple'",
        r"global.extra-index-url='\nhttps://one.example.org\nhttps://two.example.org'",
        ":env:.timeout='180'",
        "global.timeout='9'",
        "freeze.timeout='7'",
        "no setting",
    ]
    assert settings.pip_settings(listed) == {
        "index-url": "https://install.example.org/simple",
        "extra-index-url": "https://one.example.org https://two.example.org",
        "timeout": "180",
    }


def test_files_hold_the_index_and_the_certificates_under_their_place_in_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "authority.pem"
    bundle.write_text("certificate")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.org/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/folder/of/this/machine")
    files = settings.files()
    assert files["build/ca.crt"] == b"certificate"
    lines = files["build/pip.conf"].decode().splitlines()
    assert lines[0] == "[global]"
    assert {"index-url = https://index.example.org/simple", f"cert = {settings.MOUNTED}/ca.crt"} <= set(lines)
    assert "/folder/of/this/machine" not in files["build/pip.conf"].decode()


def test_proxies_are_found_in_either_case() -> None:
    environment = {"HTTP_PROXY": "http://a:1", "https_proxy": "http://b:2", "NO_PROXY": "lan", "PATH": "/bin"}
    assert settings.arguments(environment) == {
        "http_proxy": "http://a:1",
        "https_proxy": "http://b:2",
        "no_proxy": "lan",
    }


def test_settings_do_not_name_images(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).resolve().parents[2] / "images"

    def names() -> dict[str, str]:
        definitions = catalogue.load(folder)
        return catalogue.references(definitions, catalogue.select(definitions, ["ttp"], {}), {})

    before = names()
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.org/simple")
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    assert names() == before
    assert not [path for image in catalogue.load(folder).values() for path in image.files if path.startswith("build/")]
