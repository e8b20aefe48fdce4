"""Apps opened in a real browser, through the ``app`` command of official clients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser import until
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from tunnels import AppClient

pytestmark = pytest.mark.clients

_SCREEN = """
const screen = terminal.buffer.active;
return Array.from({length: screen.length}, (_, n) => screen.getLine(n).translateToString(true)).join("\\n");
"""
_TYPING = "return document.activeElement?.closest('.jp-Notebook .cm-content') !== null"


def screen(browser: webdriver.Remote) -> str:
    """The text of the web terminal."""
    return str(browser.execute_script(_SCREEN))


def type_in(browser: webdriver.Remote, text: str, *keys: str) -> None:
    ActionChains(browser).send_keys(text, *keys).perform()


@pytest.mark.parametrize("version", ["23.9.10", "26.9.6"])
def test_a_cell_runs_in_jupyterlab(
    version: str, client_of: Callable[[str], AppClient], lab: str, browser: webdriver.Remote
) -> None:
    with client_of(version).app(lab, "jupyterlab") as tunnel:
        browser.get(f"{tunnel.address}/lab?reset")
        launch = ".jp-LauncherCard[data-category=Notebook]"
        until(browser, lambda browser: browser.find_element(By.CSS_SELECTOR, launch).click() is None)
        bar = (By.ID, "jp-main-statusbar")
        until(browser, lambda browser: "| Idle" in browser.find_element(*bar).text)
        until(browser, lambda browser: browser.execute_script(_TYPING))
        type_in(browser, "import os; print('seen', os.environ['BACKENDAI_SESSION_NAME'], 6 * 7)")
        ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
        output = (By.CSS_SELECTOR, ".jp-OutputArea-output")
        shown = until(browser, lambda browser: browser.find_element(*output).text)
        assert shown == f"seen {lab} 42", browser.find_element(By.TAG_NAME, "body").text


@pytest.mark.parametrize("version", ["25.5.2"])
def test_a_terminal_in_a_page(
    version: str, client_of: Callable[[str], AppClient], lab: str, browser: webdriver.Remote
) -> None:
    with client_of(version).app(lab, "ttyd") as tunnel:
        browser.get(tunnel.address)
        until(browser, lambda browser: "$" in screen(browser))
        type_in(browser, "echo sum-$((6*7)); echo size-$(stty size | tr ' ' x).", Keys.ENTER)
        until(browser, lambda browser: "\nsum-42\n" in screen(browser))
        before = browser.execute_script("return `${terminal.rows}x${terminal.cols}`")
        until(browser, lambda browser: f"\nsize-{before}.\n" in screen(browser))
        browser.set_window_size(700, 500)
        try:
            fitted = "const size = `${terminal.rows}x${terminal.cols}`; return size != arguments[0] && size"
            after = until(browser, lambda browser: browser.execute_script(fitted, before))
            type_in(browser, "echo 'size ä漢✓'-$(stty size | tr ' ' x).", Keys.ENTER)
            until(browser, lambda browser: f"\nsize ä漢✓-{after}.\n" in screen(browser))
        finally:
            browser.set_window_size(1200, 800)
        type_in(browser, "exit", Keys.ENTER)
        until(browser, lambda browser: "ended" in browser.find_element(By.ID, "notice").text)
