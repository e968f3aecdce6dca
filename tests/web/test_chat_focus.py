"""Where the keys go: no control that goes away takes the focus along, and a shortcut is not another one."""

from playwright.sync_api import expect

from tests.support.chat_page import ChatPage


def test_alt_and_an_arrow_in_the_empty_box_open_the_neighbour_and_no_editor(chat: ChatPage) -> None:
    chat.ask("first")
    chat.button("New conversation").click()
    chat.ask("second")
    chat.box.press("Alt+ArrowDown")
    expect(chat.turns.last).to_contain_text("first")
    chat.box.press("Alt+ArrowUp")
    expect(chat.turns.last).to_contain_text("second")
    expect(chat.log.get_by_role("textbox")).to_have_count(0)
