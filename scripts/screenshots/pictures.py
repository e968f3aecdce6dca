"""How a person comes to each of the pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import FloatRect, Page, expect

from scripts.screenshots import texts
from scripts.screenshots.samples import ENGLISH, KOREAN, Sample
from scripts.screenshots.studio import DESKTOP, Studio, shoot
from scripts.screenshots.terminal import draw_terminal
from tests.support.chat_page import ChatPage
from tests.support.process import ROOT

FOLDER = ROOT / "docs" / "screenshots"

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 760},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


def take_page(studio: Studio, file: Path) -> None:
    with studio.open("analytics") as page:
        chat = ChatPage(page)
        chat.ask(texts.SQL_SECOND)
        page.reload()
        expect(chat.turns.last.get_by_role("table")).to_be_visible()
        show_usage(page)
        shoot(page, file)


def take_writing(studio: Studio, file: Path) -> None:
    """A reply of which the last words are still to come, in the dark."""
    with studio.open("onboarding", color_scheme="dark") as page:
        chat = ChatPage(page)
        chat.send(texts.QUEUE)
        expect(chat.turns.last).to_contain_text(texts.QUEUE_REPLY[-40:].strip())
        shoot(page, file)
        studio.replies.go_on()
        chat.await_end()


def take_probabilities(studio: Studio, file: Path) -> None:
    """After `take_writing`, in the same conversation."""
    with studio.open("onboarding") as page:
        chat = ChatPage(page)
        chat.open_settings()
        page.get_by_role("switch", name="Token probabilities").check()
        page.keyboard.press("Escape")
        chat.ask(texts.BRIEF)
        chat.turns.last.locator("summary").click()
        chat.turns.last.get_by_role("option", name="part").click()
        expect(chat.turns.last.get_by_role("tooltip")).to_be_visible()
        box = chat.turns.last.bounding_box()
        assert box is not None
        shoot(page, file, FloatRect(x=box["x"] - 16, y=box["y"] - 16, width=box["width"] + 32, height=390))


def take_states(studio: Studio, file: Path) -> None:
    with studio.open("report-q3", ignored="net::ERR") as page:
        expect(page.get_by_role("button", name="Retry")).to_have_count(2)
        ChatPage(page).box.fill("Leave out the returns")
        page.context.set_offline(True)
        expect(page.get_by_text("The connection is lost.")).to_be_visible()
        ChatPage(page).log.evaluate("(log) => log.scrollTo(0, 0)")
        shoot(page, file)


def take_phone(studio: Studio, file: Path) -> None:
    """After `take_page`, in the same conversation."""
    with studio.open("analytics", **PHONE) as page:
        expect(ChatPage(page).turns.last.get_by_role("table")).to_be_visible()
        shoot(page, file)


def take_terminal(studio: Studio, file: Path) -> None:
    with studio.open_terminal("kitchen") as terminal:
        terminal.type(f"{texts.TERMINAL_QUESTION}\r")
        terminal.wait_for("●")
        terminal.wait_for_prompt()
        terminal.type(f"{texts.TERMINAL_SECOND}\r")
        terminal.wait_for("½ each")
        # The port is another each time, and people use this one.
        drawn = draw_terminal(terminal.received.replace(studio.host.encode(), b"127.0.0.1:10000"))
        studio.replies.go_on()
        terminal.wait_for_prompt()
    with studio.browser.new_page(viewport=DESKTOP, device_scale_factor=1.5) as page:
        page.set_content(drawn)
        box = page.locator("pre").bounding_box()
        assert box is not None
        shoot(page, file, box)


def take_korean_page(studio: Studio, file: Path) -> None:
    with studio.open("kitchen", locale="ko-KR") as page:
        page.get_by_role("textbox", name="메시지").fill(texts.STEW_SECOND)
        page.get_by_role("button", name="보내기").click()
        expect(page.get_by_text("194토큰").last).to_be_attached()
        page.reload()
        expect(page.get_by_text("이때부터는 젓지 않습니다.")).to_be_visible()
        show_usage(page)
        shoot(page, file)


def show_usage(page: Page) -> None:
    """Open the panel, and wait until its chart is drawn."""
    page.keyboard.press("Alt+s")
    page.wait_for_function("() => window.Chart && Chart.getChart(document.querySelector('.chart canvas'))")


PICTURES: list[tuple[Sequence[Sample], dict[str, Callable[[Studio, Path], None]]]] = [
    (
        ENGLISH,
        {
            "page.png": take_page,
            "page-writing.png": take_writing,
            "page-probabilities.png": take_probabilities,
            "page-states.png": take_states,
            "page-phone.png": take_phone,
            "terminal.png": take_terminal,
        },
    ),
    (KOREAN, {"page-ko.png": take_korean_page}),
]
"""The pictures by their names, taken in this order, with the conversations that the list of the page has."""
