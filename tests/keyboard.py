"""Somebody who walks through a page by keyboard alone."""

from __future__ import annotations

from tests.accessible import focus
from tests.chromium import Chromium


def tab_to(browser: Chromium, wanted: str) -> None:
    """Go on with Tab until something has the focus; each step has to be seen."""
    for _ in range(20):
        browser.press("Tab")
        what, visible = focus(browser)
        assert visible or what.startswith("body"), f"one does not see that {what} has the focus"
        if what == wanted:
            return
    raise AssertionError(f"Tab does not lead to {wanted}")


def fill(browser: Chromium, *fields: tuple[str, str]) -> None:
    """Type into fields, each reached by Tab from the page's first focus, and press Enter."""
    for name, value in fields:
        if focus(browser)[0] != f"input {name}":
            tab_to(browser, f"input {name}")
        browser.select_all()
        browser.type(value)
    with browser.loading():
        browser.press("Enter")
