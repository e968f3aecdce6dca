"""What is written anew, asked in other words or asked again: no word of either side leaves the page."""

from playwright.sync_api import expect

from tests.support.chat_page import ChatPage


def test_a_question_keeps_its_lines_and_their_indentation(chat: ChatPage) -> None:
    chat.ask("def f():\n    return 1")
    question = chat.turns.last.locator(".question")
    assert question.inner_text() == "def f():\n    return 1"
    expect(question).to_have_css("height", "70px")  # Two lines and the padding.
