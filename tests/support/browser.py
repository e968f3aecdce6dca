"""A real browser: Debian's Chromium, driven by Playwright. A test fails if a page does what it should not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request, sync_playwright

from tests.support.requirements import find_command

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

LOG_VIOLATIONS = """
addEventListener("securitypolicyviolation", (violation) =>
  console.error("forbidden:", violation.violatedDirective, violation.blockedURI));
"""


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    path = find_command("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, url: str, *, ignored: str = "", **context: Any) -> Iterator[Page]:
    """The page at `url` in a new browser context, whose options are `context`.

    At the end of the block, the test fails if the page logged an error, broke its content policy, or sent a request to
    another origin. Errors with the text `ignored` do not count: the browser logs each request that is not answered.
    """
    faults: list[str] = []

    def check_origin(request: Request) -> None:
        if urlsplit(request.url).scheme not in ("data", "blob") and not request.url.startswith(f"{origin}/"):
            faults.append(f"requested {request.url}")

    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    with browser.new_context(**context) as opened:
        opened.set_default_timeout(15_000)
        page = opened.new_page()
        page.add_init_script(LOG_VIOLATIONS)
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", check_origin)
        page.goto(url)
        yield page
    faults = [fault for fault in faults if not ignored or ignored not in fault]
    assert faults == [], faults
