"""Which messages a run sends upstream, and as what bytes."""

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import Message, Role, Step, ToolCall
from server.runs import context
from server.runs.context import Transcript

EMPTY = Transcript()


def make_messages(count: int) -> list[Message]:
    return [Message.of("user" if n % 2 == 0 else "assistant", f"m{n}", None, 0.0) for n in range(count)]


def to_transcript(messages: list[Message]) -> Transcript:
    return EMPTY.extend(each.fragment for each in messages)


def make_history(count: int) -> Transcript:
    return to_transcript(make_messages(count))


def make_transcript(*roles_and_contents: tuple[Role, str]) -> Transcript:
    return to_transcript([Message.of(role, content, None, 0.0) for role, content in roles_and_contents])


def test_the_system_prompt_comes_first_then_the_history_then_the_question() -> None:
    sent = orjson.loads(context.build_messages("be brief", make_history(2), "why?"))
    assert [(each["role"], each["content"]) for each in sent] == [
        ("system", "be brief"),
        ("user", "m0"),
        ("assistant", "m1"),
        ("user", "why?"),
    ]


def test_without_a_system_prompt_nothing_stands_before_the_history() -> None:
    assert orjson.loads(context.build_messages("", EMPTY, "why?")) == [{"role": "user", "content": "why?"}]


def test_a_longer_history_begins_with_the_very_bytes_of_the_shorter_one() -> None:
    shorter = context.build_messages("be brief", make_history(4), "")
    longer = context.build_messages("be brief", make_history(6), "")
    assert longer.startswith(shorter.removesuffix(b"]"))


def test_without_a_question_the_history_is_all_that_is_sent() -> None:
    assert [each["role"] for each in orjson.loads(context.build_messages("", make_history(2), ""))] == [
        "user",
        "assistant",
    ]


def test_the_outputs_of_tools_follow_the_question_with_the_calls_that_they_belong_to() -> None:
    calls = (ToolCall("c1", "weather", '{"city":"서울"}', "맑음"), ToolCall("c2", "time", "{}", "noon"))
    sent = orjson.loads(context.build_messages("", EMPTY, "why?", [Step(calls, 1.0, "Let me see.", 2.0)]))
    assert [each["role"] for each in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["content"] == "Let me see."
    assert [each["function"]["arguments"] for each in sent[1]["tool_calls"]] == ['{"city":"서울"}', "{}"]
    assert [(each["tool_call_id"], each["content"]) for each in sent[2:]] == [("c1", "맑음"), ("c2", "noon")]


def test_replies_whose_questions_were_left_out_are_left_out_too() -> None:
    later = make_messages(6)[1:]
    assert list(context.drop_orphan_replies(later)) == later[1:]
    assert list(context.drop_orphan_replies(later[:1])) == later[:1]


@given(st.text())
def test_any_text_comes_through_as_it_is(text: str) -> None:
    sent = orjson.loads(context.build_messages(text, make_transcript(("assistant", text)), text))
    assert {each["content"] for each in sent} == {text}


def test_consecutive_messages_of_one_role_are_joined_with_a_blank_line() -> None:
    transcript = make_transcript(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"))
    sent = orjson.loads(context.build_messages("be brief", transcript, "f"))
    assert [(each["role"], each["content"]) for each in sent] == [
        ("system", "be brief"),
        ("user", "a\n\nb"),
        ("assistant", "c\n\nd"),
        ("user", "e\n\nf"),
    ]


@given(st.lists(st.sampled_from(["user", "assistant"])), st.integers(0, 20))
def test_a_transcript_is_the_same_however_it_grew(roles: list[Role], count: int) -> None:
    messages = [Message.of(role, f"m{n}", None, 0.0) for n, role in enumerate(roles)]
    grown = to_transcript(messages[:count]).extend(each.fragment for each in messages[count:])
    assert context.build_messages("", grown, "") == context.build_messages("", to_transcript(messages), "")
    sent = orjson.loads(context.build_messages("", grown, ""))
    assert all(one["role"] != other["role"] for one, other in itertools.pairwise(sent))
    assert "\n\n".join(each["content"] for each in sent) == "\n\n".join(each.content for each in messages)


def test_calls_after_an_assistants_message_are_of_the_same_message() -> None:
    step = Step((ToolCall("c1", "time", "{}", "noon"),), 1.0, "Let me see.", 2.0)
    sent = orjson.loads(
        context.build_messages("", make_transcript(("user", "why?"), ("assistant", "Well.")), "", [step, step])
    )
    assert [each["role"] for each in sent] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [each["content"] for each in sent[1::2]] == ["Well.\n\nLet me see.", "Let me see."]
    assert all(each["tool_calls"] for each in sent[1::2])


def test_what_came_with_a_call_is_sent_back_with_its_output() -> None:
    signature = {"google": {"thought_signature": "c2ln", "n": [1, 2.5, None]}}
    call = ToolCall("c1", "time", "{}", "noon", {"extra_content": signature})
    step = Step((call,), 1.0, "", 2.0, {"reasoning_content": "It is\nlate.", "reasoning_details": [{"data": "x"}]})
    _, assistant, tool = orjson.loads(context.build_messages("", EMPTY, "why?", [step]))
    assert assistant["reasoning_content"] == "It is\nlate."
    assert assistant["reasoning_details"] == [{"data": "x"}]
    assert assistant["tool_calls"][0]["extra_content"] == signature
    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "noon"}


def test_unset_everything_is_sent() -> None:
    assert context.window_start(10_000, None, 0) == 0


@pytest.mark.parametrize("limit", [2, 3, 4, 5, 6, 7, 8, 10, 11, 100, 101])
def test_history_is_cut_in_whole_turns_and_in_blocks(limit: int) -> None:
    starts = [context.window_start(count, limit, 0) for count in range(0, 1000, 2)]
    for count, start in zip(range(0, 1000, 2), starts, strict=True):
        assert start % 2 == 0
        assert count - start <= limit
        assert count - start >= min(count, 2 if limit >= 2 else 0)
    moves = [later - earlier for earlier, later in itertools.pairwise(starts) if later != earlier]
    # Half is dropped each time, so that the prefix stays the same until the window is full again.
    assert set(moves) == {(limit + 3) // 4 * 2}


def test_the_prefix_holds_for_many_turns() -> None:
    starts = [context.window_start(count, 100, 0) for count in range(102, 602, 2)]
    assert {starts.count(start) for start in starts} == {25}


@given(st.integers(0, 5000), st.integers(2, 300), st.integers(0, 2000))
def test_what_the_model_could_not_read_is_never_sent_again(turns: int, limit: int, forgotten: int) -> None:
    context_start = min(turns, forgotten) * 2
    start = context.window_start(turns * 2, limit, context_start)
    assert context_start <= start <= turns * 2
    assert turns * 2 - start <= limit


@given(st.integers(0, 500), st.integers(1, 500))
def test_halving_drops_the_older_half_in_whole_turns_until_nothing_is_left(start: int, turns: int) -> None:
    start, count = start * 2, start * 2 + turns * 2
    steps = 0
    while start < count:
        smaller = context.drop_oldest_half(start, count)
        assert smaller > start
        assert smaller % 2 == 0
        assert (count - smaller) * 2 <= count - start
        start, steps = smaller, steps + 1
    assert steps <= turns.bit_length()


def test_a_clients_hash_is_stable_and_tells_nothing() -> None:
    assert context.client_hash("ada") == context.client_hash("ada") != context.client_hash("eve")
    assert "ada" not in context.client_hash("ada")
