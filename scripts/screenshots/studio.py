"""The server, the browser and the terminal in which a picture is taken."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize, expect

from scripts.screenshots.colors import reduce_colors
from scripts.screenshots.samples import MODEL, MODELS, Sample, write_store, zone_name
from scripts.screenshots.upstream import PacedReplies
from tests.support.browser import visit
from tests.support.process import serve
from tests.support.replies_over_http import serve_replies
from tests.support.terminal import Terminal, open_terminal

DESKTOP: ViewportSize = {"width": 1440, "height": 900}


class Studio:
    """A running server that has samples, and the browser that looks at it."""

    def __init__(self, browser: Browser, url: str, replies: PacedReplies) -> None:
        self.browser = browser
        self.replies = replies
        self._url = url

    @property
    def host(self) -> str:
        return self._url.removeprefix("http://")

    @contextmanager
    def open(self, client_name: str, **options: Any) -> Iterator[Page]:
        """The page of a conversation, when its log is there; `options` as for `visit`."""
        address = f"{self._url}/?client_name={quote(client_name, safe='')}"
        context = {"locale": "en-GB", "viewport": DESKTOP, "timezone_id": zone_name(), **options}
        with visit(self.browser, address, **context) as page:
            expect(page.get_by_role("article").last).to_be_visible()
            yield page

    @contextmanager
    def open_terminal(self, client_name: str) -> Iterator[Terminal]:
        """`chat` at its first prompt, in a terminal where nothing was typed before."""
        with (
            TemporaryDirectory() as folder,
            open_terminal("chat", "-c", client_name, "--server", self._url, XDG_STATE_HOME=folder) as terminal,
        ):
            terminal.wait_for_prompt()
            yield terminal


@contextmanager
def open_studio(browser: Browser, samples: Sequence[Sample]) -> Iterator[Studio]:
    replies = PacedReplies()
    with TemporaryDirectory() as folder, serve_replies(replies, MODELS) as upstream:
        store = write_store(Path(folder) / "store.db", samples)
        settings: Any = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": upstream, "DEFAULT_MODEL": MODEL, "STORE_URL": store}
        with serve(**settings) as served:
            yield Studio(browser, served.url, replies)


def shoot(page: Page, file: Path, clip: FloatRect | None = None) -> None:
    """Write what the page shows."""
    page.evaluate("document.fonts.ready")
    with Image.open(BytesIO(page.screenshot(clip=clip, animations="disabled"))) as image:
        reduce_colors(image.convert("RGB")).save(file, optimize=True)
