"""The page for everybody: accessible in both themes and on a phone, long logs, offline, beneath a path."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import visit
from tests.support.chat_page import ChatPage, ChatUpstream, open_chat
from tests.support.process import ROOT, ServerProcess, serve
from tests.support.replies_over_http import SwitchableReplies, serve_replies
from tests.support.requirements import skip_or_fail

AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

REPLY = """# A heading

Some **strong** words, `code`, a [link](https://example.com/) and a table:

| ingredient | amount |
|---|---:|
| stock | 500 ml |

```python
print("hello")
```

> quoted
"""


def findings(page: Page) -> list[str]:
    """What axe-core finds wrong on the page as it is. The policy forbids adding a script, not evaluating one."""
    if not AXE.exists():
        skip_or_fail("axe-core is missing: npm ci --prefix tests/node")
    page.evaluate(AXE.read_text() + "\n;0")
    results = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{each['id']}: {[node['html'][:200] for node in each['nodes']]}" for each in results["violations"]]


class TestAccessibility:
    @pytest.mark.parametrize(
        "options",
        [{"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE, {**PHONE, "color_scheme": "dark"}],
        ids=["light", "dark", "phone", "dark phone"],
    )
    def test_axe_finds_nothing(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream, options: dict[str, Any]
    ) -> None:
        replies = model.hold(REPLY, "fails", "writes")
        replies.end(REPLY, REPLY)
        replies.fail("fails", ConnectionResetError())
        name = f"axe-{json.dumps(options)[:40]}"
        with open_chat(browser, chat_server.url, name, **options) as chat:
            assert findings(chat.page) == []
            chat.ask(REPLY)
            chat.send("fails")
            expect(chat.turns.last.get_by_role("button", name="Retry")).to_be_visible()
            chat.send("writes")
            replies.say("writes", "Once upon ")
            expect(chat.turns.last).to_contain_text("Once upon")
            assert findings(chat.page) == []
            replies.end("writes", "a time")
            chat.await_end()
            chat.turns.last.get_by_role("button", name="Edit").click()
            assert findings(chat.page) == []
            chat.page.keyboard.press("Escape")
            chat.open_settings()
            expect(chat.settings.get_by_text("Usage · last 14 days")).to_be_visible()
            assert findings(chat.page) == []
            chat.button("Clear").click()
            expect(chat.page.get_by_role("dialog")).to_be_visible()
            assert findings(chat.page) == []


class TestOnAPhone:
    def test_list_and_panel_are_drawers_that_give_the_focus_back(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        with open_chat(browser, chat_server.url, **PHONE) as chat:
            chat.ask("on a phone")
            expect(chat.list).not_to_be_visible()
            chat.button("Menu").click()
            expect(chat.entry("on a phone")).to_be_visible()
            expect(chat.entry("on a phone").get_by_role("button", name="Delete")).to_be_visible()
            chat.page.keyboard.press("Escape")
            expect(chat.list).not_to_be_visible()
            expect(chat.button("Menu")).to_be_focused()
            chat.open_settings()
            chat.settings.get_by_role("button", name="Close").click()
            expect(chat.settings).not_to_be_visible()
            expect(chat.button("Settings")).to_be_focused()

    def test_nothing_lies_beside_it_and_every_target_is_large(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        model.hold(REPLY).end(REPLY, REPLY)
        with open_chat(browser, chat_server.url, **PHONE) as chat:
            chat.ask(REPLY)
            assert chat.page.evaluate("document.documentElement.scrollWidth") == 390
            sizes = chat.page.evaluate("""
              [...document.querySelectorAll("button, select, input, textarea, [role=log] a")]
                .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.closest("[inert]"))
                .map((each) => [each.innerText || each.ariaLabel, each.getBoundingClientRect()])
                .filter(([, box]) => box.height && box.height < 44)
                .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)
            """)
            assert [each for each in sizes if not each.startswith("link")] == []
            fields = chat.page.evaluate("""
              [...document.querySelectorAll("textarea, select, [type=search]")]
                .map((each) => parseFloat(getComputedStyle(each).fontSize))
            """)
            assert min(fields) >= 16


@pytest.fixture(scope="module")
def long_log(chat_server: ServerProcess) -> str:
    """The name of a conversation of 2,000 messages."""
    messages = []
    for index in range(1000):
        messages.append({"role": "user", "content": f"Question {index}"})
        messages.append({"role": "assistant", "content": f"Reply **{index}**\n\n- one\n- two\n\n`code`"})
    assert chat_server.ask("POST", "/conversations/import?client_name=long", messages)[0] == 200
    return "long"


class TestLongLogs:
    def test_2000_messages_open_within_a_second_and_scroll_to_the_first(
        self, browser: Browser, chat_server: ServerProcess, long_log: str
    ) -> None:
        with open_chat(browser, chat_server.url) as chat:
            search = chat.page.get_by_role("searchbox", name="Search conversations")
            search.fill(long_log)
            entry = chat.page.get_by_role("link", name="Question 0", exact=True)
            expect(entry).to_be_visible()
            opened = chat.page.evaluate("""async () => {
              const began = performance.now();
              document.querySelector(".rows a").click();
              for (;;) {
                await new Promise(requestAnimationFrame);
                const last = [...document.querySelectorAll("article")].at(-1);
                if (last?.querySelector(".reply strong")?.checkVisibility()) return performance.now() - began;
              }
            }""")
            assert opened < 1000
            expect(chat.turns.last).to_be_in_viewport()
            chat.log.focus()
            for _ in range(40):
                chat.page.keyboard.press("Home")
                if chat.log.get_by_text("Question 0", exact=True).count():
                    break
                chat.page.wait_for_timeout(100)
            chat.page.keyboard.press("Home")
            expect(chat.log.get_by_text("Question 0", exact=True)).to_be_in_viewport()

    # Safari does not keep in place what is read when the content above it grows; Chromium does unless it is told.
    @pytest.mark.parametrize("anchor", ["auto", "none"])
    def test_what_is_read_stays_in_place_when_older_messages_come(
        self, browser: Browser, chat_server: ServerProcess, long_log: str, anchor: str
    ) -> None:
        with open_chat(browser, chat_server.url, long_log) as chat:
            expect(chat.turns.last).to_contain_text("Question 999")
            chat.log.hover()
            chat.page.mouse.wheel(0, -100)
            expect(chat.button("Jump to latest")).to_be_visible()
            moved = chat.page.evaluate(
                """async (anchor) => {
              const log = document.querySelector("[role=log]");
              log.style.overflowAnchor = anchor;
              const count = log.querySelectorAll("article").length;
              log.scrollTop = 2.2 * log.clientHeight;
              for (let still = 0, height = 0; still < 10; height = log.scrollHeight) {
                await new Promise(requestAnimationFrame);
                still = height === log.scrollHeight ? still + 1 : 0;
              }
              log.scrollTop -= log.clientHeight / 3;
              const { top } = log.getBoundingClientRect();
              const turns = [...log.querySelectorAll("article")];
              const read = turns.find((each) => each.getBoundingClientRect().bottom > top);
              const before = read.getBoundingClientRect().top;
              while (log.querySelectorAll("article").length === count) await new Promise(requestAnimationFrame);
              await new Promise(requestAnimationFrame);
              return read.getBoundingClientRect().top - before;
            }""",
                anchor,
            )
            assert abs(moved) < 2


class TestTimes:
    @pytest.mark.parametrize("shown", ["12:29\u202fPM", "10:00\u00a0p.m."])
    def test_one_of_twelve_hours_keeps_off_the_question(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream, shown: str
    ) -> None:
        with open_chat(browser, chat_server.url, viewport={"width": 1360, "height": 900}) as chat:
            chat.ask("hello")
            time, thread, slip = (chat.turns.last.locator(each) for each in (".when", ".thread", ".slip"))
            around = time.bounding_box(), thread.bounding_box()
            assert around[0] and around[1]
            middle = around[0]["x"] + around[0]["width"] / 2
            assert middle == pytest.approx(around[1]["x"] + 1, abs=1)
            time.evaluate("(time, shown) => (time.textContent = shown)", shown)
            left, right = time.bounding_box(), slip.bounding_box()
            assert left and right
            assert right["x"] - left["x"] - left["width"] >= 4
            assert left["height"] <= 20

    def test_one_of_24_hours_has_two_digits(self, browser: Browser, chat_server: ServerProcess) -> None:
        script = """async () => {
          const main = document.querySelector("script[type=module]").src;
          const { clockTime } = await import(new URL("format.js", main));
          return clockTime(new Date(2026, 10, 29, 9, 18));
        }"""
        for locale, shown in {"en-GB": "09:18", "ko-KR": "09:18", "en-US": "9:18 AM"}.items():
            with visit(browser, f"{chat_server.url}/", locale=locale) as page:
                assert page.evaluate(script) == shown


class TestBeneathAPath:
    @pytest.mark.parametrize("path", ["/bot", "/bot/"])
    def test_it_works_with_and_without_a_slash_at_the_end(self, browser: Browser, path: str) -> None:
        def strip(route: Route) -> None:
            parts = urlsplit(route.request.url)
            if not parts.path.startswith("/bot"):
                route.abort()
                return
            stripped = parts._replace(path=parts.path.removeprefix("/bot") or "/").geturl()
            route.continue_(url=stripped, headers={**route.request.headers, "x-forwarded-prefix": "/bot"})

        with serve(UPSTREAM="scripted", TRUSTED_PROXIES="1") as served, browser.new_context(locale="en-GB") as context:
            context.route("**/*", strip)
            page = context.new_page()
            page.goto(f"{served.url}{path}")
            chat = ChatPage(page)
            chat.ask("hello")
            assert urlsplit(page.url).path == "/bot/"
            page.reload()
            expect(chat.turns).to_have_count(1)
            chat.button("New conversation").click()
            expect(chat.page.get_by_text("Ask anything.")).to_be_visible()
            assert urlsplit(page.url).path == "/bot/"
            entry = chat.entry("hello").get_by_role("link")
            assert (entry.get_attribute("href") or "").startswith("/bot/?client_name=")


class TestOutages:
    @pytest.mark.parametrize("messages", [2, 400])
    def test_the_banner_moves_nothing_and_the_first_question_can_be_read_below_it(
        self, browser: Browser, chat_server: ServerProcess, messages: int
    ) -> None:
        name, still = f"banner-{messages}", {"reduced_motion": "reduce"}
        lines = [{"role": ("user", "assistant")[n % 2], "content": f"Message {n}"} for n in range(messages)]
        assert chat_server.ask("POST", f"/conversations/import?client_name={name}", lines)[0] == 200
        with open_chat(browser, chat_server.url, name, ignored="net::ERR", **still) as chat:
            expect(chat.turns.last).to_contain_text(f"Message {messages - 1}")
            chat.log.hover()
            chat.page.mouse.wheel(0, -700)
            if messages > 2:
                expect(chat.button("Jump to latest")).to_be_visible()
            seen = chat.turns.first if messages == 2 else chat.page.locator("article:has-text('Message 390')")
            before = seen.bounding_box()
            banner = chat.page.get_by_role("alert").filter(has_text="The connection is lost.")
            chat.page.context.set_offline(True)
            expect(banner).to_be_visible()
            assert seen.bounding_box() == before
            if messages == 2:
                chat.page.mouse.wheel(0, -700)
                slip, bar = chat.turns.first.locator(".slip"), banner.bounding_box()
                assert bar is not None
                chat.page.wait_for_function(
                    "(bottom) => document.querySelector('.slip').getBoundingClientRect().top >= bottom",
                    arg=bar["y"] + bar["height"],
                )
                expect(slip).to_be_in_viewport()
            chat.page.context.set_offline(False)
            expect(banner).to_be_hidden()
            assert seen.bounding_box() == before

    def test_a_server_that_restarts_is_told_and_the_reply_is_picked_up(self, browser: Browser, tmp_path: Path) -> None:
        replies = SwitchableReplies()
        upstream = ChatUpstream(replies)
        held = upstream.hold("a story")
        store = f"sqlite:///{tmp_path}/store.db"
        with serve_replies(replies) as url:
            env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": url, "STORE_URL": store}
            with serve(**env) as served, open_chat(browser, served.url, ignored="net::ERR") as chat:
                chat.ask("hello")
                chat.send("a story")
                held.say("a story", "Once upon ")
                expect(chat.turns.last).to_contain_text("Once upon")
                chat.box.fill("half a thou")
                served.kill()
                expect(chat.page.get_by_text("The connection is lost.")).to_be_visible()
                expect(chat.button("Stop")).to_be_visible()
                expect(chat.turns.last).to_contain_text("Once upon")
                with serve(**{**env, "PORT": str(served.port)}) as again:
                    assert again.port
                    expect(chat.page.get_by_text("The connection is lost.")).to_be_hidden()
                    expect(chat.turns.last).to_contain_text(
                        "The server restarted and cut the reply off.", timeout=30_000
                    )
                    expect(chat.box).to_have_value("half a thou")
                    held.release()
                    upstream.hold("a story").end("a story", "Once upon a time.")
                    chat.turns.last.get_by_role("button", name="Retry").click()
                    expect(chat.turns.last).to_contain_text("a time.")

    def test_a_question_whose_answer_is_lost_is_asked_once(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        with open_chat(browser, chat_server.url, ignored="net::ERR") as chat:
            lost = []

            def lose(route: Any) -> None:
                if lost or route.request.method != "POST":
                    route.continue_()
                    return
                lost.append(route.fetch())
                route.abort("connectionreset")

            chat.page.route(re.compile("/chat/stream$"), lose)
            chat.send("only once")
            expect(chat.turns.last.locator(".reply")).to_have_text("re: only once")
            assert len(lost) == 1
            chat.page.reload()
            expect(chat.turns).to_have_count(1)
            name = chat.page.locator(".head .name").inner_text()
            assert chat_server.history(name) == ["only once", "re: only once"]
