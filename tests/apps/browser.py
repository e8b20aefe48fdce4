"""A real Chromium without a window, driven by selenium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from live.service import wait_until
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")
#: Seconds until a page shows what it should, on a loaded machine.
_PATIENCE = 120.0
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,800",
)


@contextmanager
def chromium(place: Path) -> Iterator[webdriver.Remote]:
    """A browser with an empty profile in ``place``; skips the test where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*_OPTIONS, f"--user-data-dir={place / 'profile'}"):
        options.add_argument(option)
    said = place / "chromedriver.log"
    environ = {**os.environ, "HOME": str(place)}  # what it wants to keep of a crash
    with (
        said.open("wb") as log,
        subprocess.Popen(
            [driver, "--port=0"], env=environ, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(lambda: "started successfully" in said.read_text(), within=60, what="a driver")
            port = re.search(r"on port (\d+)\.", said.read_text().split("started successfully")[1])
            assert port is not None, said.read_text()
            browser = webdriver.Remote(f"http://127.0.0.1:{port[1]}", options=options)
            try:
                yield browser
            finally:
                browser.quit()
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the browser too, if it is still there


def until(browser: webdriver.Remote, found: Callable[[webdriver.Remote], T]) -> T:
    """Look until ``found`` finds something, which a page may replace meanwhile."""
    unready = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, _PATIENCE, ignored_exceptions=unready).until(found)
