"""A real browser: Debian's Chromium, driven by Playwright, which notices whatever a page should not do."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request, sync_playwright

from tests.support.requirements import installed

QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (violation) =>
  console.error("forbidden:", violation.violatedDirective, violation.blockedURI));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    path = installed("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, url: str) -> Iterator[Page]:
    """The page at `url`, as somebody sees it who was never here.

    At the end of the block, the test fails where the page broke, complained, was kept from something by its policy, or
    asked anybody but the server that it came from.
    """
    wrong: list[str] = []

    def watch(request: Request) -> None:
        if urlsplit(request.url).scheme not in ("data", "blob") and not request.url.startswith(f"{origin}/"):
            wrong.append(f"asked {request.url}")

    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    with browser.new_context() as context:
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.add_init_script(TELL_VIOLATIONS)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda problem: wrong.append(str(problem)))
        page.on("request", watch)
        page.goto(url)
        yield page
    assert wrong == [], wrong
