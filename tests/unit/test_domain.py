"""The words of the project."""

import re

from hypothesis import given
from hypothesis import strategies as st

from server.domain import Message, Run, new_id, rfc3339


@given(st.text())
def test_a_message_gives_back_the_content_that_it_was_made_of(text: str) -> None:
    message = Message.of("assistant", text, "run_1", 0.0)
    assert (message.role, message.content) == ("assistant", text)


def test_a_time_is_told_in_utc() -> None:
    assert rfc3339(1_763_632_800.5) == "2025-11-20T10:00:00.500Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", rfc3339(0))


def test_ids_are_not_to_be_guessed() -> None:
    ids = {new_id("run") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"run_[0-9a-f]{32}", each) for each in ids)


def test_a_completed_run_adds_its_question_and_its_reply_to_the_history() -> None:
    run = Run("why?", created=1.0).ended_as("completed", 2.0, text="because")
    assert [(each.role, each.content, each.timestamp, each.run_id) for each in run.history_messages()] == [
        ("user", "why?", 1.0, run.id),
        ("assistant", "because", 2.0, run.id),
    ]


def test_a_cancelled_run_adds_what_it_had_written_and_nothing_where_it_had_not() -> None:
    assert [each.content for each in Run("why?").ended_as("cancelled", 2.0, text="bec").history_messages()] == [
        "why?",
        "bec",
    ]
    assert Run("why?").ended_as("cancelled", 2.0).history_messages() == ()


def test_a_failed_or_interrupted_run_keeps_its_text_to_itself() -> None:
    assert Run("why?").ended_as("failed", 2.0, text="bec").history_messages() == ()
    assert Run("why?").ended_as("interrupted", 2.0, text="bec").history_messages() == ()
