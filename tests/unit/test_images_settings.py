"""What builds learn from the control node, and that it stays apart from everything that names an image."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

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


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home of a user who has set nothing, on a machine without Go and Maven."""
    for name in (*settings.GO_SETTINGS, "GOENV", "XDG_CONFIG_HOME", "MAVEN_HOME", "M2_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_a_machine_without_settings_gives_neither_go_nor_maven_any(bare: Path) -> None:
    assert not {path for path in settings.files() if path not in ("build/pip.conf", "build/ca.crt")}


def test_go_settings_take_the_environment_first_and_leave_out_how_this_machine_builds(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / ".config/go").mkdir(parents=True)
    (bare / ".config/go/env").write_text("GOPROXY=https://file.example.org\nGOSUMDB=off\nGOFLAGS=-mod=vendor\n")
    monkeypatch.setenv("GOPROXY", "https://environment.example.org,direct")
    monkeypatch.setenv("GOFLAGS", "-race")
    assert settings.files()["build/go.env"] == b"GOPROXY=https://environment.example.org,direct\nGOSUMDB=off\n"


def test_go_settings_are_read_from_the_file_that_the_environment_names(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "go.env").write_text("GOPRIVATE=*.example.org\n")
    monkeypatch.setenv("GOENV", str(bare / "go.env"))
    assert settings.go_settings() == {"GOPRIVATE": "*.example.org"}
    monkeypatch.setenv("GOENV", "off")
    assert settings.go_settings() == {}


def test_maven_settings_are_the_users_and_those_of_the_installed_program(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, text in {
        ".m2/settings.xml": "<settings/>",
        ".m2/settings-security.xml": "<settingsSecurity/>",
        "maven/bin/mvn": "#!/bin/sh",
        "maven/conf/settings.xml": "<settings><offline/></settings>",
    }.items():
        (bare / path).parent.mkdir(parents=True, exist_ok=True)
        (bare / path).write_text(text)
    (bare / "maven/bin/mvn").chmod(0o755)
    (bare / "bin").mkdir()
    (bare / "bin/mvn").symlink_to(bare / "maven/bin/mvn")
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    files = settings.files()
    assert {path: files[path] for path in files if path.startswith("build/maven/")} == {
        "build/maven/settings.xml": b"<settings/>",
        "build/maven/settings-security.xml": b"<settingsSecurity/>",
        "build/maven/global.xml": b"<settings><offline/></settings>",
    }


def test_maven_is_told_of_the_proxy_where_nothing_else_tells_it(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p%40ss@proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "localhost, .example.org")
    (proxy,) = ElementTree.fromstring(settings.files()["build/maven/global.xml"]).findall("proxies/proxy")
    assert {field.tag: field.text for field in proxy} == {
        "id": "environment",
        "protocol": "http",
        "host": "proxy.example.org",
        "port": "3128",
        "username": "me",
        "password": "p@ss",
        "nonProxyHosts": "localhost|*.example.org",
    }


def test_settings_do_not_name_images(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).resolve().parents[2] / "images"

    def names() -> dict[str, str]:
        definitions = catalogue.load(folder)
        return catalogue.references(definitions, catalogue.select(definitions, ["ttp", "logger", "mongo"], {}), {})

    before = names()
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.org/simple")
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("GOPROXY", "https://modules.example.org")
    assert names() == before
    assert not [path for image in catalogue.load(folder).values() for path in image.files if path.startswith("build/")]
