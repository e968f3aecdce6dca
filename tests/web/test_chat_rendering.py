"""How the chat page shows replies: safe, in pieces, in Korean, and never for long at a time."""

import json
import re
from collections.abc import Iterator
from math import log
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import launch_chromium, visit
from tests.support.process import ServerProcess, serve

DOCUMENT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Replies</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="{files}/tokens.css">
<link rel="stylesheet" href="{files}/prose.css"><body><main></main></body></html>"""

SHOW = """async ([files, text, pieces]) => {
  const { ReplyView } = await import(`${files}/markdown.js`);
  const reply = document.createElement("div");
  document.querySelector("main").append(reply);
  const view = new ReplyView(reply);
  const size = Math.ceil(text.length / pieces);
  for (let end = size; pieces && end < text.length; end += size) view.update(text.slice(0, end));
  view.finish(text);
}"""

WRITE = """async ([files, text]) => {
  const { ReplyView } = await import(`${files}/markdown.js`);
  const reply = document.createElement("div");
  document.querySelector("main").append(reply);
  new ReplyView(reply).update(text);
}"""

STREAM = """async ([files, text, pieces]) => {
  const { ReplyView } = await import(`${files}/markdown.js`);
  const reply = document.createElement("div");
  document.querySelector("main").append(reply);
  const view = new ReplyView(reply);
  const pause = () => new Promise((end) => setTimeout(end, 4));
  const size = Math.ceil(text.length / pieces);
  for (let end = size, turn = 1; end < text.length; end += size, turn++) {
    view.update(text.slice(0, end));
    if (turn % 8 === 0) await pause();
  }
  view.finish(text);
}"""

SAMPLE = """# 스트림에서 한글이 깨질 때

조각이 `ED 95`에서 끝나면 **따로 해석한 두 조각**은 깨집니다. 범위는 3~5분, 10~15분.

- 하나 [링크](https://example.com/a?b=1&c=2)
- 둘 ![그림](https://example.com/x.png)
  1. 안쪽

     ```js
     f("안쪽");
     ```

```javascript
const decoder = new TextDecoder("utf-8");
// ``` 는 끝이 아니다
```

| 재료 | 2인분 |
|---|---:|
| 된장 | 36 |
| 두부<br>단단한 | 120 |

> 인용 *기울임*
> 둘째 줄

제목
---

[첫째] and [둘째][2].

[첫째]: https://example.com/1
[2]: https://example.com/2
"""


@pytest.fixture(scope="module")
def served() -> Iterator[ServerProcess]:
    with serve(UPSTREAM="scripted") as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as browser:
        yield browser


class Replies:
    """An empty document under the policy of the chat page, in which replies are shown."""

    def __init__(self, page: Page, files: str) -> None:
        self.page = page
        self.files = files

    def show(self, text: str, pieces: int = 0) -> None:
        """Show a whole reply, after so many pieces of it."""
        self._evaluate(SHOW, text, pieces)

    def write(self, text: str) -> None:
        """Show the beginning of a reply that is not finished."""
        self._evaluate(WRITE, text)

    def stream(self, text: str, pieces: int) -> None:
        self._evaluate(STREAM, text, pieces)

    def show_probabilities(self, logprobs: list[dict[str, Any]]) -> None:
        self.page.evaluate(
            """async ([files, logprobs]) => {
              const { renderProbabilities } = await import(`${files}/probabilities.js`);
              renderProbabilities(document.querySelector("main"), logprobs);
            }""",
            [self.files, logprobs],
        )
        self.page.get_by_text("Token probabilities").click()
        self.page.get_by_role("option").first.wait_for(state="attached")

    def html(self, index: int = -1) -> str:
        replies = self.page.locator("main > div")
        return str(replies.nth(replies.count() + index if index < 0 else index).inner_html())

    def _evaluate(self, script: str, *values: Any) -> None:
        self.page.evaluate(script, [self.files, *values])
        expect(self.page.locator("main > div").last).not_to_be_empty()


@pytest.fixture
def replies(browser: Browser, served: ServerProcess) -> Iterator[Replies]:
    with visit(browser, f"{served.url}/docs", reduced_motion="reduce") as page:
        answer = page.request.get(f"{served.url}/", headers={"Accept": "text/html"})
        found = re.search(r"web/\w+", answer.text())
        assert found, "The page has no files."
        policy = answer.headers["content-security-policy"]

        def fulfil(route: Route) -> None:
            body = DOCUMENT.format(files=f"/{found[0]}")
            route.fulfill(body=body, headers={"Content-Type": "text/html", "Content-Security-Policy": policy})

        page.route("**/replies", fulfil)
        page.goto(f"{served.url}/replies")
        yield Replies(page, f"/{found[0]}")


HOSTILE = {
    "script": "<script>window.hacked = 1</script>\n\ntext <script>window.hacked = 1</script>",
    "event handler": "<img src=x onerror='window.hacked = 1'> and\n\n<svg onload='window.hacked = 1'>",
    "javascript link": "[a](javascript:window.hacked=1) [b](JaVaScRiPt:window.hacked=1) [c](&#106;avascript:alert(1))",
    "javascript link with controls": "[a](<java\tscript:window.hacked=1>) [b](\x01javascript:window.hacked=1)",
    "autolink": "<javascript:window.hacked=1> <data:text/html,x>",
    "definition": "[a]\n\n[a]: javascript:window.hacked=1",
    "data link": "[a](data:text/html;base64,PHNjcmlwdD4=) ![b](data:image/svg+xml,<svg/onload=alert(1)>)",
    "other schemes": "[a](vbscript:x) [b](file:///etc/passwd) [c](blob:x) [d](//else.example/x) [e](/history)",
    "remote image": "![a](https://else.example/a.png) [![b](https://else.example/b.png)](https://else.example)",
    "names": '<a id="main" name="getElementById">x</a><form id="location"><input name="body"></form>',
    "style": "<style>* { display: none }</style><p style='position:fixed;inset:0'>x</p>",
    "linked style": "<link rel=stylesheet href=https://else.example/a.css>@import 'https://else.example/b.css'",
    "svg and math": "<svg><a xlink:href='javascript:1'><text>x</text></a></svg><math><mtext></mtext></math>",
    "mutation": "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror=1>'>",
    "form": "<form action=https://else.example><button formaction=javascript:1>x</button></form>",
    "frames": "<iframe srcdoc='<script>1</script>'></iframe><object data=x></object><embed src=x><base href=//e>",
    "attributes through a title": '[a](https://example.com "x\\" onmouseover=window.hacked=1 y=\\"")',
    "attributes through an address": '[a](https://example.com/"onmouseover="window.hacked=1)',
    "attributes through a language": '```"onclick="window.hacked=1\nx\n```\n\n- ```x"><img onerror=1>\n  x\n  ```',
    "template and slot": "<template><script>1</script></template><slot name=x></slot><dialog open>x</dialog>",
    "many quotes": "> " * 5_000 + "x",
    "many lists": "- " * 5_000 + "x",
    "many brackets": "[" * 5_000 + "](" * 5_000,
    "many links": "[a](" * 3_000,
    "many stars": "**a " * 3_000 + "_b" * 3_000,
}

TAGS = """P BR STRONG EM DEL CODE PRE A UL OL LI BLOCKQUOTE H3 H4 H5 H6 HR TABLE THEAD TBODY TR TH TD
DIV FIGURE FIGCAPTION SPAN BUTTON svg path"""
"""What Markdown becomes, and what the page adds to code and tables."""


class TestHostileReplies:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_it_is_text_and_nothing_else(self, replies: Replies, kind: str) -> None:
        replies.show(HOSTILE[kind])
        replies.show(HOSTILE[kind], pieces=7)
        main = replies.page.locator("main")
        expect(main.locator(".writing")).to_have_count(0, timeout=30_000)
        found = main.evaluate(
            """(main) => [...main.querySelectorAll("*")].map((each) => [each.tagName,
              [...each.attributes].map(({ name, value }) => [name, value])])"""
        )
        assert {tag for tag, _ in found} <= set(TAGS.split())
        for tag, attributes in found:
            names = {name for name, _ in attributes}
            assert not {each for each in names if each.startswith("on")} | names & {
                "style",
                "id",
                "name",
                "src",
                "srcset",
            }
            if tag == "A":
                address = dict(attributes)
                assert re.match(r"https?://|mailto:|#", address["href"])
                assert (address["target"], address["rel"]) == ("_blank", "noopener noreferrer")
        assert replies.page.evaluate("window.hacked") is None

    def test_an_image_is_a_link_and_one_within_a_link_its_text(self, replies: Replies) -> None:
        replies.show("![a cat](https://else.example/a.png) [![b](https://else.example/b.png)](https://example.com)")
        links = replies.page.get_by_role("link")
        expect(links).to_have_text(["Image: a cat", "Image: b"])
        assert [each.get_attribute("href") for each in links.all()] == [
            "https://else.example/a.png",
            "https://example.com",
        ]

    def test_html_is_shown_as_it_was_written(self, replies: Replies) -> None:
        replies.show("Use <b>bold</b> &amp; <script>x</script>.\n\n<div>\nblock\n</div>\n\nA<br>B")
        expect(replies.page.locator("p").first).to_have_text("Use <b>bold</b> & <script>x</script>.")
        expect(replies.page.locator("p").nth(1)).to_have_text("<div>block</div>")
        expect(replies.page.locator("p").nth(2).locator("br")).to_have_count(1)

    def test_a_link_that_is_not_finished_is_its_text(self, replies: Replies) -> None:
        replies.write("See [the page](https://exam")
        expect(replies.page.locator("p")).to_have_text("See the page")
        expect(replies.page.get_by_role("link")).to_have_count(0)

    def test_bidirectional_controls_do_not_reach_beyond_their_paragraph(self, replies: Replies) -> None:
        replies.show("first \u202e\u2066 end\n\nsecond ABC")
        replies.show("third ABC")
        lefts = replies.page.evaluate(
            """() => [...document.querySelectorAll("p")].slice(1).map((p) => {
              const range = document.createRange(), text = p.firstChild;
              const left = (at) => {
                range.setStart(text, at);
                range.setEnd(text, at + 1);
                return range.getBoundingClientRect().left;
              };
              return [...text.data].every((_, at) => at === 0 || left(at) > left(at - 1));
            })"""
        )
        assert lefts == [True, True]


class TestUnfinishedReplies:
    def test_every_beginning_of_a_reply_can_be_shown_and_the_end_is_the_same_as_at_once(self, replies: Replies) -> None:
        differing = replies.page.evaluate(
            """async ([files, text]) => {
              const { ReplyView } = await import(`${files}/markdown.js`);
              const main = document.querySelector("main");
              const plain = (reply) => reply.innerHTML.replace(/\\s+/g, " ").replace(/> </g, "><");
              const show = (beginnings, text) => {
                const reply = document.createElement("div");
                const view = new ReplyView(reply);
                main.replaceChildren(reply);
                beginnings.forEach((each) => view.update(each));
                view.finish(text);
                return plain(reply);
              };
              const whole = show([], text);
              return [...text].keys().toArray().filter((end) => show([text.slice(0, end)], text) !== whole);
            }""",
            [replies.files, SAMPLE],
        )
        assert differing == []

    def test_marks_that_are_open_are_not_shown(self, replies: Replies) -> None:
        for text in ("is **bo", "is *it", "is `co", "is ~~de"):
            replies.write(text)
            shown = replies.page.locator("main > div").last
            expect(shown).to_have_text(re.compile(r"^is \w\w$"))
            expect(shown.locator("strong, em, code, del")).to_have_count(1)

    def test_a_line_that_may_become_something_else_waits(self, replies: Replies) -> None:
        for text in ("Text\n-", "Text\n\n1.", "Text\n\n```py", "Text\n\n| a | b |", "Text\n\n| a | b |\n|--"):
            replies.write(text)
            expect(replies.page.locator("main > div").last).to_have_text("Text")

    def test_a_fence_that_is_open_is_code_and_a_fence_within_it_is_not_its_end(self, replies: Replies) -> None:
        replies.write("````md\n```js\nx\n```\n")
        expect(replies.page.locator(".code")).to_have_count(1)
        expect(replies.page.locator(".code code")).to_have_text("```js\nx\n```\n")

    def test_what_is_finished_keeps_its_elements(self, replies: Replies) -> None:
        kept = replies.page.evaluate(
            """async (files) => {
              const { ReplyView } = await import(`${files}/markdown.js`);
              const reply = document.createElement("div");
              document.querySelector("main").append(reply);
              const view = new ReplyView(reply);
              view.update("First.\\n\\nSec");
              const first = reply.firstChild;
              view.finish("First.\\n\\nSecond.\\n\\nThird.");
              return reply.firstChild === first && reply.children.length;
            }""",
            replies.files,
        )
        assert kept == 3


class TestProse:
    def test_korean_emphasis_is_bold_and_not_slanted(self, replies: Replies) -> None:
        replies.show('찬 *육수부터* 넣고 **"강조(설명)"**은 굵게, **`code`**를 봅니다.')
        expect(replies.page.locator("div[lang=ko]")).to_have_count(1)
        expect(replies.page.locator("em")).to_have_css("font-style", "normal")
        expect(replies.page.locator("em")).to_have_css("font-weight", "600")
        expect(replies.page.locator("strong")).to_have_text(['"강조(설명)"', "code"])

    def test_english_is_marked_as_such(self, replies: Replies) -> None:
        replies.show("Some *words*.")
        expect(replies.page.locator("div[lang=en] em")).to_have_css("font-style", "italic")

    def test_a_range_with_tildes_is_not_struck_through(self, replies: Replies) -> None:
        replies.show("3~5분, 10~15분 ~~아니요~~")
        expect(replies.page.locator("del")).to_have_text(["아니요"])

    def test_an_address_ends_before_a_particle(self, replies: Replies) -> None:
        replies.show("https://example.com를 https://ko.wikipedia.org/wiki/한국 봅니다")
        expect(replies.page.get_by_role("link")).to_have_text(
            ["https://example.com", "https://ko.wikipedia.org/wiki/한국"]
        )

    def test_headings_are_below_those_of_the_page(self, replies: Replies) -> None:
        replies.show("# One\n\n## Two\n\n###### Six")
        expect(replies.page.get_by_role("heading", level=3)).to_have_text("One")
        expect(replies.page.get_by_role("heading", level=6)).to_have_text("Six")
        expect(replies.page.locator("h1, h2")).to_have_count(0)

    def test_columns_of_numbers_stand_right(self, replies: Replies) -> None:
        replies.show("| a | b |\n|---|---|\n| x | 1,200 ml |\n| y | about two |")
        cells = replies.page.locator("tr > :nth-child(2)")
        for cell in cells.all():
            expect(cell).to_have_css("text-align", "right")

    def test_code_in_a_line_has_its_padding_and_radius_on_both_sides_of_a_break(self, replies: Replies) -> None:
        replies.show("`code`")
        style = replies.page.locator("code").evaluate("""(code) => {
          const style = getComputedStyle(code);
          return [style.boxDecorationBreak ?? style.webkitBoxDecorationBreak, style.paddingLeft, style.paddingRight];
        }""")
        assert style == ["clone", "4px", "4px"]

    def test_a_question_is_shown_as_it_was_typed(self, replies: Replies) -> None:
        shown = replies.page.evaluate(
            """async (files) => {
              const { renderQuestion } = await import(`${files}/markdown.js`);
              const main = document.querySelector("main");
              renderQuestion(main, "**a**\\n<b>");
              return [main.textContent, main.children.length, main.dir];
            }""",
            replies.files,
        )
        assert shown == ["**a**\n<b>", 0, "auto"]


class TestCode:
    def test_it_is_coloured_and_can_be_copied(self, replies: Replies) -> None:
        replies.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        replies.show('```js\nconst a = "<b>&amp;";\n```')
        expect(replies.page.locator(".hljs-keyword")).to_have_text("const")
        expect(replies.page.locator(".hljs-string")).to_have_text('"<b>&amp;"')
        replies.page.get_by_role("button", name="Copy", exact=True).click()
        expect(replies.page.get_by_role("button", name="Copied", exact=True)).to_be_visible()
        assert replies.page.evaluate("navigator.clipboard.readText()") == 'const a = "<b>&amp;";\n'
        expect(replies.page.get_by_role("button", name="Copy", exact=True)).to_be_visible()

    def test_it_has_the_same_lines_whether_it_was_streamed_or_not(self, replies: Replies) -> None:
        text = "```\nx = 1\n```\n\nafter"
        for pieces in (0, 2, len(text)):
            replies.show(text, pieces)
            assert replies.page.locator("pre").last.evaluate("(pre) => pre.textContent") == "x = 1\n"

    def test_a_long_one_is_folded_when_it_is_finished_and_not_before(self, replies: Replies) -> None:
        text = "```sql\n" + "".join(f"select {line};\n" for line in range(40))
        replies.write(text)
        expect(replies.page.locator(".folded")).to_have_count(0)
        replies.show(text + "```")
        expect(replies.page.locator(".folded .code-title")).to_have_text("sql · 40 lines")
        more = replies.page.get_by_role("button", name="Show the other 24 lines")
        before = replies.page.locator(".folded pre").bounding_box()
        more.click()
        expect(more).to_have_count(0)
        pre = replies.page.locator("pre").last
        expect(pre).to_be_focused()
        after = pre.bounding_box()
        assert before and after
        assert after["height"] > 2 * before["height"]

    def test_what_is_too_wide_scrolls_by_keyboard_and_fades_at_its_edge(self, replies: Replies) -> None:
        replies.show("```\n" + "wide " * 400 + "\n```\n\n```\nnarrow\n```")
        expect(replies.page.locator("pre").first).to_have_attribute("data-cut", "")
        expect(replies.page.locator("pre").last).not_to_have_attribute("data-cut", "")
        replies.page.locator("pre").first.focus()
        replies.page.keyboard.press("ArrowRight")
        replies.page.locator("pre").first.evaluate("(pre) => (pre.scrollLeft = pre.scrollWidth)")
        expect(replies.page.locator("pre").first).not_to_have_attribute("data-cut", "")


def token(text: str, share: float, piece: bytes | None = None, **others: float) -> dict[str, Any]:
    """One entry of `logprobs`; `piece` are its bytes, if `text` cannot tell them."""

    def entry(text: str, share: float, piece: bytes) -> dict[str, Any]:
        return {"token": text, "logprob": log(share), "bytes": list(piece)}

    piece = text.encode() if piece is None else piece
    top = [entry(text, share, piece), *(entry(other, p, other.encode()) for other, p in others.items())]
    return {**entry(text, share, piece), "top_logprobs": top}


class TestProbabilities:
    def test_tokens_are_merged_until_their_bytes_are_characters(self, replies: Replies) -> None:
        first, second, third = (bytes([each]) for each in "된".encode())
        replies.show_probabilities(
            [token(" ", 0.9, b" " + first), token("?", 0.5, second), token("?", 0.8, third), token("장", 0.95)]
        )
        options = replies.page.get_by_role("option")
        expect(options).to_have_text(["된", "장"])
        options.first.click()
        expect(options.first).to_have_accessible_name("된, 36%")
        assert options.first.text_content() == " 된"

    def test_bytes_that_are_no_character_are_told_as_bytes(self, replies: Replies) -> None:
        replies.show_probabilities([token("?", 0.9, b"\xff"), token("a", 0.9), token("b", 0.9), token("c", 0.9)])
        expect(replies.page.get_by_role("option")).to_have_text(["bytes FF", "a", "b", "c"])

    def test_each_is_marked_by_how_sure_it_was(self, replies: Replies) -> None:
        replies.show_probabilities([token("a", 0.95), token("b", 0.6), token("c", 0.2)])
        styles = [each.locator("span") for each in replies.page.get_by_role("option").all()]
        for style, expected in zip(styles, ["solid", "dashed", "double"], strict=True):
            expect(style).to_have_css("border-bottom-style", expected)

    def test_the_keyboard_goes_through_them_with_one_stop_and_shows_what_was_possible(self, replies: Replies) -> None:
        page = replies.page
        replies.show_probabilities([token("a", 0.9), token(" kitchen", 0.22, pipe=0.41, hose=0.17), token(" c", 0.9)])
        page.keyboard.press("Tab")
        tokens = page.get_by_role("listbox", name="Token probabilities")
        expect(tokens).to_be_focused()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("option", selected=True)).to_have_text("kitchen")
        shown = page.get_by_role("tooltip")
        expect(shown.locator(".word")).to_have_text(["pipe", "kitchen", "hose"])
        expect(shown.locator(".share")).to_have_text(["41%", "22%", "17%"])
        expect(shown.locator(".chosen .word")).to_have_text("kitchen")
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_role("option", selected=True)).to_have_text("a")
        page.keyboard.press("End")
        expect(page.get_by_role("option", selected=True)).to_have_text("c")
        page.keyboard.press("Escape")
        expect(shown).to_be_hidden()
        page.keyboard.press("Tab")
        expect(tokens).not_to_be_focused()

    def test_a_direction_control_in_one_does_not_turn_the_others_around(self, replies: Replies) -> None:
        replies.show_probabilities([token("\u202e", 0.9), token(" abc", 0.9), token(" def", 0.9)])
        boxes = [each.bounding_box() for each in replies.page.get_by_role("option").all()[1:]]
        assert boxes[0] and boxes[1]
        assert boxes[0]["x"] < boxes[1]["x"]


class TestUsage:
    def test_it_is_drawn_day_by_day_with_a_table_beside_it_and_again_when_the_theme_changes(
        self, replies: Replies
    ) -> None:
        page = replies.page
        drawn = page.evaluate(
            """async (files) => {
              const { drawUsage } = await import(`${files}/usage_chart.js`);
              const main = document.querySelector("main");
              const canvas = document.createElement("canvas"), table = document.createElement("table");
              const frame = document.createElement("div");
              Object.assign(frame.style, { position: "relative", height: "150px" });
              frame.append(canvas);
              main.append(frame, table);
              const day = (ago) => new Date(Date.now() - ago * 86_400_000 - new Date().getTimezoneOffset() * 60_000);
              const usage = [0, 0, 1, 2, 3, 4, 5, 6, 40].map((ago) => ({
                date: day(ago).toISOString().slice(0, 10), prompt_tokens: 1000, completion_tokens: 250 }));
              await drawUsage(canvas, table, { usage });
              const colour = () => Chart.getChart(canvas).data.datasets[1].backgroundColor;
              const light = colour();
              document.documentElement.dataset.theme = "dark";
              await new Promise((end) => setTimeout(end));
              return [light, colour(), Chart.getChart(canvas).data.datasets.map(({ data }) => data)];
            }""",
            replies.files,
        )
        assert drawn[:2] == ["#0e6656", "#82cdb6"]
        assert drawn[2] == [[0] * 7 + [1000] * 6 + [2000], [0] * 7 + [250] * 6 + [500]]
        expect(page.get_by_role("img")).to_have_accessible_name(re.compile("The table below"))
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(5)
        expect(rows.first.get_by_role("cell")).to_have_text(["2,000", "500"])
        page.get_by_role("button", name="Show all").click()
        expect(rows).to_have_count(7)


FORMATS = """async ([files, lang]) => {
  const words = await import(`${files}/words.js`), format = await import(`${files}/format.js`);
  words.setLanguage(lang);
  const now = new Date(2026, 10, 29, 14, 2), ago = (days) => new Date(2026, 10, 29 - days, 9, 5);
  return [
    ...[0, 1, 7, 8, 32, 400].map((days) => format.groupOf(ago(days), now)),
    ...[0, 1, 3, 32].map((days) => format.listTime(ago(days), now)),
    ...[2.14, 9.97, 31.4, 59.6, 72].map((each) => format.seconds(each)),
    format.exchange(412, 84512), format.tokens(1), format.rate(312, 4.2), format.rate(3, 1.2),
    ...[0.414, 0.004, 1].map((each) => format.percent(each)),
    format.compact(12000), format.seconds(undefined) + format.tokens(undefined) + format.rate(1, 0),
    words.t("list.none", "두부"), words.t("import.exists", "kitchen"), words.errorSentence("unheard_of"),
    ...[20, 119.2, 121, 7199, 7201].map((each) => words.errorSentence("rate_limited", "", each)),
  ];
}"""


class TestDaysAndNumbers:
    def test_in_english(self, replies: Replies) -> None:
        assert replies.page.evaluate(FORMATS, [replies.files, "en"]) == [
            *("Today", "Yesterday", "Previous 7 days", "Previous 30 days", "October", "October 2025"),
            *("9:05 AM", "9:05 AM", "Thu", "Oct 28", "2.1 s", "10 s", "31 s", "1 min", "1 min 12 s"),
            *("412 → 84,512 tokens", "1 token", "74 tok/s", "2.5 tok/s", "41%", "<1%", "100%", "12K", ""),
            *(
                'No conversation contains "두부".',
                "A conversation of that name exists already.",
                "Something went wrong. Try again.",
            ),
            *(
                f"Too many questions. You can send again in {span}."
                for span in ("20 s", "120 s", "3 min", "120 min", "3 h")
            ),
        ]

    def test_in_korean(self, replies: Replies) -> None:
        assert replies.page.evaluate(FORMATS, [replies.files, "ko"]) == [
            *("오늘", "어제", "지난 7일", "지난 30일", "10월", "2025년 10월"),
            *("09:05", "09:05", "목요일", "10월 28일", "2.1초", "10초", "31초", "1분", "1분 12초"),
            *("412 → 84,512토큰", "1토큰", "74토큰/초", "2.5토큰/초", "41%", "<1%", "100%", "1.2만", ""),
            *(
                "‘두부’가 든 대화가 없습니다.",
                "같은 이름의 대화가 이미 있습니다.",
                "문제가 생겼습니다. 다시 시도하세요.",
            ),
            *(
                f"질문이 너무 잦습니다. {span} 뒤 보낼 수 있습니다."
                for span in ("20초", "120초", "3분", "120분", "3시간")
            ),
        ]


def fill(line: str, length: int = 20_000) -> str:
    return (line * (length // len(line) + 1))[:length]


SENTENCE = "감자는 **찬 육수부터** 넣고 `중약불`로 익히면 무르지 않습니다. "

LONG = {
    "blocks": fill(SAMPLE.partition("[첫째]")[0]),
    "code": "```python\n" + fill("def f(x):\n    return 'a' + str(x)  # 더하기\n"),
    "one line of code": "```js\n" + fill("const a = {b: 1}; "),
    "paragraph": fill(SENTENCE),
    "paragraph without spaces": fill("가나다라마바사아자차카타파하"),
    "list": fill(f"- {SENTENCE}\n"),
    "table": "| a | b | c |\n|---|---|---|\n" + fill("| 하나 **둘** | 12 | `셋` 넷 |\n"),
}


class TestLongReplies:
    @pytest.mark.parametrize("kind", LONG)
    def test_20000_characters_in_4000_pieces_never_keep_the_page_busy_for_100_ms(
        self, replies: Replies, kind: str
    ) -> None:
        """Time on the main thread's processor counts, so that other work on the machine does not."""
        page = replies.page
        replies.show("```python\nx = 1\n```")
        expect(page.locator(".hljs-number")).to_have_count(1)
        browser = page.context.browser
        assert browser
        browser.start_tracing(page=page, categories=["toplevel"])
        replies.stream(LONG[kind], 4_000)
        expect(page.locator(".writing")).to_have_count(0, timeout=30_000)
        longest = longest_task(json.loads(browser.stop_tracing()))
        assert 0 < longest < 100
        replies.show(LONG[kind])
        texts = [re.sub(r"\s+", " ", page.locator("main > div").nth(at).text_content() or "") for at in (1, 2)]
        assert texts[0] == texts[1]


def longest_task(trace: dict[str, Any]) -> float:
    """The longest task of the page's main thread, in milliseconds of processor time."""
    events = trace["traceEvents"]
    names = [each for each in events if each["name"] == "thread_name"]
    threads = {(each["pid"], each["tid"]) for each in names if each["args"]["name"] == "CrRendererMain"}
    tasks = [each for each in events if each["name"].endswith("RunTask") and (each["pid"], each["tid"]) in threads]
    return max(float(each.get("tdur", 0)) for each in tasks) / 1000
