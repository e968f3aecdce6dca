"""What is written anew, asked in other words or asked again: no word of either side leaves the page."""

from playwright.sync_api import expect

from tests.support.chat_page import ChatPage, ChatUpstream


def ask_in_other_words(chat: ChatPage, words: str) -> None:
    chat.turns.last.get_by_role("button", name="Edit").click()
    chat.turns.last.get_by_role("textbox", name="Edit").fill(words)
    chat.button("Send again").click()


def test_a_question_keeps_its_lines_and_their_indentation(chat: ChatPage) -> None:
    chat.ask("def f():\n    return 1")
    question = chat.turns.last.locator(".question")
    assert question.inner_text() == "def f():\n    return 1"
    expect(question).to_have_css("height", "70px")  # Two lines and the padding.


class TestStopped:
    def test_other_words_and_what_was_written_for_them_stay_below_the_turn(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        chat.ask("one")
        replies = model.hold("two\nwords")
        ask_in_other_words(chat, "two\nwords")
        replies.say("two\nwords", "Once **upon** ")
        turn = chat.turns.last
        expect(turn).to_contain_text("Once upon")
        chat.page.keyboard.press("Escape")
        expect(turn.locator(".strand .reply:visible")).to_have_text("re: one")
        attempt = turn.locator(".attempt")
        expect(attempt.locator(".question")).to_have_text("two words")
        expect(attempt.locator(".reply strong")).to_have_text("upon")
        expect(attempt).to_contain_text("Stopped")
        expect(chat.turns).to_have_count(1)
        attempt.get_by_role("button", name="Edit").click()
        editor = turn.get_by_role("textbox", name="Edit")
        expect(editor).to_have_value("two\nwords")
        editor.fill("three")
        editor.press("Enter")
        expect(attempt).to_have_count(0)
        expect(turn.locator(".reply:visible")).to_have_text("re: three")

    def test_a_reply_written_anew_stays_below_the_turn_until_the_next_one(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        chat.ask("a story")
        replies = model.hold("a story")
        chat.button("Regenerate").click()
        replies.say("a story", "Once upon ")
        turn = chat.turns.first
        expect(turn).to_contain_text("Once upon")
        chat.button("Stop").click()
        attempt = turn.locator(".attempt")
        expect(attempt).to_contain_text("Once upon")
        expect(attempt.locator(".question")).to_have_count(0)
        expect(turn.locator(".strand .reply:visible")).to_have_text("re: a story")
        replies = model.hold("a story")
        replies.end("a story", "Another.")
        attempt.get_by_role("button", name="Retry").click()
        expect(attempt).to_have_count(0)
        expect(turn.locator(".reply:visible")).to_have_text("Another.")
        chat.button("Regenerate").click()
        replies.say("a story", "A third ")
        expect(turn).to_contain_text("A third")
        chat.button("Stop").click()
        expect(attempt).to_contain_text("A third")
        chat.ask("next")
        expect(attempt).to_have_count(0)

    def test_a_question_stopped_before_the_first_word_can_be_asked_again(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        replies = model.hold("a story")
        chat.send("a story")
        replies.await_call("a story")
        chat.button("Stop").click()
        expect(chat.turns.last).to_contain_text("Stopped")
        model.hold("a story").end("a story", "Once upon a time.")
        chat.turns.last.get_by_role("button", name="Retry").click()
        expect(chat.turns.last.locator(".reply")).to_have_text("Once upon a time.")
        expect(chat.button("Retry")).to_have_count(0)


def test_other_words_whose_reply_fails_are_shown_with_the_reason(chat: ChatPage, model: ChatUpstream) -> None:
    chat.ask("one")
    replies = model.hold("two")
    replies.say("two", "Once ")
    replies.fail("two", ConnectionResetError())
    ask_in_other_words(chat, "two")
    turn = chat.turns.last
    for _ in range(2):
        expect(turn.locator(".attempt .unremembered .question")).to_have_text("two")
        expect(turn.locator(".attempt .reply")).to_have_text("Once")
        expect(turn.locator(".strand .question")).to_have_text("one")
        expect(turn.locator(".strand .reply:visible")).to_have_text("re: one")
        chat.page.reload()
    replies.end("two", "Once upon a time.")
    turn.get_by_role("button", name="Retry").click()
    expect(turn.locator(".attempt")).to_have_count(0)
    expect(turn.locator(".reply:visible")).to_have_text("Once upon a time.")
    expect(turn.locator(".question:visible")).to_have_text("two")
