"""Where the parts of a reply stand: the bars of its code, and what was possible in place of a token."""

from playwright.sync_api import Locator, expect

from tests.support.chat_page import ChatPage, ChatUpstream


def box_of(element: Locator) -> dict[str, float]:
    box = element.bounding_box()
    assert box is not None
    return dict(box)


class TestCode:
    def test_the_words_that_unfold_it_stand_below_its_lines(self, chat: ChatPage, model: ChatUpstream) -> None:
        lines = "\n".join(f"line {each}" for each in range(40))
        model.hold("code").end("code", f"```text\n{lines}\n```\n")
        chat.ask("code")
        expect(chat.button("Show the other 24 lines")).to_have_css("padding-left", "16px")

    def test_without_a_language_copy_stands_right_and_no_empty_word_beside_it(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        model.hold("code").end("code", "Indented:\n\n    one\n    two\n")
        chat.ask("code")
        code = chat.log.locator("figure")
        copy = box_of(code.get_by_role("button", name="Copy"))
        frame = box_of(code)
        assert frame["x"] + frame["width"] - copy["x"] - copy["width"] < 10
        expect(code.locator(".code-title")).to_be_hidden()
        assert box_of(code.locator(".lines").first)["y"] - frame["y"] < 45


class TestProbabilities:
    def test_what_was_possible_lies_above_if_there_is_no_room_below_and_never_over_the_token(
        self, chat: ChatPage
    ) -> None:
        chat.ask("hello")
        chat.page.evaluate("""async () => {
          const main = document.querySelector("script[type=module]").src;
          const { renderProbabilities } = await import(main.replace("main.js", "probabilities.js"));
          const turn = document.querySelector("article");
          const [element, above] = [document.createElement("div"), document.createElement("div")];
          turn.append(element);
          turn.before(above);
          above.style.height = "2000px";
          turn.classList.remove("fresh");
          const token = (text) => ({ token: text, logprob: -0.5, top_logprobs: [{ token: "other", logprob: -1 }] });
          renderProbabilities(element, ["One", "Two", ..."abcdefgh"].map((each) => token(`\\n${each}`)));
        }""")
        chat.log.get_by_text("Token probabilities").click()
        log = box_of(chat.log)
        for word in ("Two", "h"):
            token = chat.log.locator(".token > span", has_text=word).last
            token.click()
            popover = box_of(chat.log.get_by_role("tooltip"))
            shown = box_of(token)
            assert popover["y"] >= shown["y"] + shown["height"] or popover["y"] + popover["height"] <= shown["y"]
            assert popover["y"] + popover["height"] <= log["y"] + log["height"]
