#!/usr/bin/env python3
"""Take the pictures of the documentation: what a browser shows of a run on Synergos Plus.

    .venv/bin/ansible-playbook tests/browser/image.yml
    .venv/bin/python docs/screenshots.py LOGS EXPERIMENT

LOGS and EXPERIMENT are the links that the demo prints. The pages are opened in Debian's Chromium, in a container of the
image `browser` on the host's network, and the pictures are written to docs/images.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
# Where the container sees them.
INSIDE, PASSWORD = Path("/docs"), Path("/run/password")
SIZE = (1400, 1200)
DRAWN = "return [...document.querySelectorAll('.js-plotly-plot')].every(each => each.data?.[0]?.x?.length > 1)"
COUNT = "return [...document.querySelectorAll(arguments[0])].filter(each => each.offsetParent).length"
CLICK = """
const kind = XPathResult.FIRST_ORDERED_NODE_TYPE;
const found = document.evaluate(arguments[0], document, null, kind, null).singleNodeValue;
if (found) found.click();
return Boolean(found);
"""


def main() -> int:
    """Take the pictures, in a container unless this is one already."""
    parser = argparse.ArgumentParser(description="Take the pictures of the documentation.")
    parser.add_argument("logs", help="link to a search in Graylog")
    parser.add_argument("experiment", help="link to a run in MLflow")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    secret = Path(state, "synergos/synergos_plus/graylog_admin")
    parser.add_argument("--password", type=Path, default=secret, help="file with Graylog's password (%(default)s)")
    options = parser.parse_args()
    if PASSWORD.exists():
        shoot(options.logs, options.experiment)
        return 0
    return launch(options)


def launch(options: argparse.Namespace) -> int:
    """Run this script in a container with a browser and return its exit code."""
    import docker

    sys.path.insert(0, str(HERE.parent / "collections"))
    from ansible_collections.synergos.grid.plugins.plugin_utils import _catalogue

    definitions = _catalogue.load(HERE.parent / "images")
    image = _catalogue.references(definitions, _catalogue.select(definitions, ["browser"], {}), {})["browser"]
    container = docker.from_env().containers.create(
        image,
        ["python3", str(INSIDE / Path(__file__).name), options.logs, options.experiment],
        network_mode="host",
        user=f"{os.getuid()}:{os.getgid()}",
        volumes={
            str(HERE): {"bind": str(INSIDE), "mode": "rw"},
            str(options.password): {"bind": str(PASSWORD), "mode": "ro"},
        },
        shm_size="512m",
    )
    try:
        container.start()
        for chunk in container.logs(stream=True, follow=True):
            sys.stdout.write(chunk.decode())
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def shoot(logs: str, experiment: str) -> None:
    """Open each page, wait until it shows what it is for, and write its picture."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={SIZE[0]},{SIZE[1]}")
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))

    def find(selector: str) -> list[Any]:
        return [each for each in browser.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]

    def count(selector: str) -> int:
        return int(browser.execute_script(COUNT, selector))

    def wait(ready: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + 60
        while not (found := ready()):
            if time.monotonic() > deadline:
                browser.save_screenshot(str(INSIDE / "images" / "failed.png"))
                sys.exit(f"{browser.current_url} does not show {what}; see docs/images/failed.png")
            time.sleep(0.5)
        return found

    def click(text: str) -> bool:
        """Click what bears the text, and say whether it is there."""
        return bool(browser.execute_script(CLICK, f"//*[normalize-space(text())='{text}' or @aria-label='{text}']"))

    def save(name: str) -> None:
        webdriver.ActionChains(browser).move_by_offset(1, 1).perform()  # away from what shows more under the mouse
        time.sleep(4)  # animations
        browser.save_screenshot(str(INSIDE / "images" / f"{name}.png"))
        print(f"docs/images/{name}.png")

    try:
        home = "{0.scheme}://{0.netloc}".format(urlsplit(logs))
        browser.get(home)
        (name,) = wait(lambda: find("input[name=username], input#username"), "a login")
        (password,) = find("input[type=password]")
        name.send_keys("admin")
        password.send_keys(PASSWORD.read_text().strip(), Keys.ENTER)
        wait(lambda: not find("input[type=password]"), "the page behind the login")
        # The links search a whole day, in which a run is a thin line.
        browser.get(re.sub("relative=[0-9]+", "relative=3600", logs))
        wait(lambda: count("table tbody") > 5, "lines")
        save("graylog-search")
        browser.get(f"{home}/dashboards")
        (link,) = wait(lambda: browser.find_elements(By.PARTIAL_LINK_TEXT, "Synergos"), "the dashboard")
        link.click()
        wait(lambda: count("[class*=react-grid-item]") > 2, "widgets")
        wait(lambda: click("Sysmetrics Analysis"), "its tabs")
        wait(lambda: count(".js-plotly-plot") > 6, "curves")
        save("graylog-dashboard")
        browser.get("{0.scheme}://{0.netloc}".format(urlsplit(experiment)))
        wait(lambda: click("Model training"), "the choice between kinds of work")
        browser.get(f"{experiment}/model-metrics")
        wait(lambda: count(".js-plotly-plot") > 1, "curves")
        click("Close")
        (search,) = find("input[placeholder*='metric']")
        search.send_keys("loss")
        wait(lambda: count(".js-plotly-plot") == 4, "the charts of the losses alone")
        wait(lambda: browser.execute_script(DRAWN), "their curves")
        save("mlflow-run")
    finally:
        browser.quit()


if __name__ == "__main__":
    sys.exit(main())
