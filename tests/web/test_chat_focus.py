"""Where the keys go: no control that goes away takes the focus along, and a shortcut is not another one."""

from playwright.sync_api import expect

from tests.support.chat_page import ChatPage, ChatUpstream


def test_alt_and_an_arrow_in_the_empty_box_open_the_neighbour_and_no_editor(chat: ChatPage) -> None:
    chat.ask("first")
    chat.button("New conversation").click()
    chat.ask("second")
    chat.box.press("Alt+ArrowDown")
    expect(chat.turns.last).to_contain_text("first")
    chat.box.press("Alt+ArrowUp")
    expect(chat.turns.last).to_contain_text("second")
    expect(chat.log.get_by_role("textbox")).to_have_count(0)


class TestControlsThatGoAway:
    def test_the_editor_leaves_the_focus_to_the_box(self, chat: ChatPage) -> None:
        chat.ask("one")
        chat.turns.last.get_by_role("button", name="Edit").click()
        editor = chat.turns.last.get_by_role("textbox", name="Edit")
        editor.fill("two")
        editor.press("Enter")
        expect(editor).to_have_count(0)
        expect(chat.box).to_be_focused()
        chat.await_end()
        chat.turns.last.get_by_role("button", name="Edit").click()
        chat.button("Cancel").click()
        expect(chat.box).to_be_focused()

    def test_the_default_leaves_it_to_the_slider(self, chat: ChatPage) -> None:
        chat.ask("hello")
        chat.open_settings()
        slider = chat.page.get_by_role("slider", name="Temperature")
        slider.focus()
        slider.press("ArrowLeft")
        chat.button("Use the default").click()
        expect(chat.button("Use the default")).to_be_hidden()
        expect(slider).to_be_focused()

    def test_jump_leaves_it_to_the_box(self, chat: ChatPage, model: ChatUpstream) -> None:
        model.hold("a story").end("a story", *[f"Line {each}\n\n" for each in range(60)])
        chat.ask("a story")
        chat.log.focus()
        chat.page.keyboard.press("Home")
        chat.button("Jump to latest").click()
        expect(chat.box).to_be_focused()

    def test_a_row_that_is_deleted_leaves_it_to_its_neighbour(self, chat: ChatPage) -> None:
        chat.ask("first to go")
        chat.button("New conversation").click()
        chat.ask("stays")
        expect(chat.entry("stays")).to_be_visible()
        row = chat.entry("first to go")
        row.hover()
        row.get_by_role("button", name="Delete").click()
        chat.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(row).to_have_count(0)
        expect(chat.list.locator(":focus")).to_have_count(1)

    def test_code_that_is_unfolded_has_it_itself(self, chat: ChatPage, model: ChatUpstream) -> None:
        lines = "\n".join(f"line {each}" for each in range(40))
        model.hold("code").end("code", f"```\n{lines}\n```\n")
        chat.ask("code")
        chat.button("Show the other 24 lines").click()
        expect(chat.log.locator("pre")).to_be_focused()
