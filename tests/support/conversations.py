"""Made-up conversations, and how a test puts them into a store and takes them out."""

from tempfile import TemporaryFile
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from server.access.caller import OPEN
from server.access.caps import Caps, ClientCaps
from server.app import create_app
from server.core.exports import ExportFormat, Exports
from server.core.imports import ImportQueue, ImportResult, Imports
from server.core.scope import Scope
from server.domain import Message, Role, Run, RunError, RunOptions, Step, ToolCall, Usage
from server.settings import Settings
from server.store.memory import MemoryStore
from server.store.protocol import Store

TIMES = st.floats(1e9, 2e9) | st.integers(10**9, 2 * 10**9).map(float) | st.just(1764400000.1234567)

# Texts of the kinds that break files: quotes, brackets, line ends of every kind, and more than one language.
TEXTS = st.text(min_size=1, max_size=20) | st.sampled_from(
    ['"}\n{"', "[[[", "}{", "\\", "\u2028\u2029\r\n\x85", "한국어 😀", '\\"', "a\0b"]
)
QUESTIONS = TEXTS.map(lambda text: text.replace("\0", "") or "?")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ROLES: st.SearchStrategy[Role] = st.sampled_from(["user", "assistant"])
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)


def ids(kind: str) -> st.SearchStrategy[str]:
    return st.binary(min_size=16, max_size=16).map(lambda each: f"{kind}_{each.hex()}")


NAMES = st.text(st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs")), min_size=1, max_size=30)
FUNCTIONS = st.fixed_dictionaries({"type": st.just("function"), "function": st.just({"name": "look_up"})})
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2) | st.just(0),
        "top_p": st.floats(0, 1),
        "max_completion_tokens": st.integers(1, 10**9),
        "reasoning_effort": st.sampled_from(["none", "high"]),
        "response_format": st.sampled_from(
            [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": {"b": 1}}}]
        ),
        "logprobs": st.just(True),
        "top_logprobs": st.integers(0, 20),
        "tools": st.lists(FUNCTIONS, min_size=1, max_size=2),
        "tool_choice": st.sampled_from(["none", "required"]) | FUNCTIONS,
        "parallel_tool_calls": st.just(False),
    },
)
CALLS = st.builds(ToolCall, TEXTS, TEXTS, TEXTS, st.none() | TEXTS, OBJECTS)
STEPS = st.builds(
    lambda calls, *rest: Step(tuple(calls), *rest),
    st.lists(CALLS, max_size=2),
    TIMES,
    TEXTS,
    st.none() | TIMES,
    OBJECTS,
)
OPTIONS = st.builds(
    RunOptions, st.none() | NAMES, st.none() | QUESTIONS, PARAMETERS, st.none() | st.integers(0, 9), OBJECTS
)
RUNS = st.builds(
    lambda steps, **fields: Run(steps=tuple(steps), **fields),
    st.lists(STEPS, max_size=2),
    question=QUESTIONS | st.just(""),
    request_id=st.none() | TEXTS,
    created=TIMES,
    id=ids("run"),
    status=st.sampled_from(["completed", "failed", "cancelled", "expired", "interrupted"]),
    text=TEXTS | st.just(""),
    model=st.none() | TEXTS,
    usage=st.none() | st.builds(Usage, *[st.integers(0, 10**6)] * 3),
    error=st.none() | st.builds(RunError, TEXTS, TEXTS),
    ended=TIMES,
    delivered=st.booleans(),
    replayed=st.integers(0, 9),
    omitted=st.integers(0, 9),
    options=OPTIONS,
    expires=st.none() | TIMES,
    finish_reason=st.none() | TEXTS,
    logprobs=st.none() | st.lists(OBJECTS, max_size=2),
    replaces=st.none() | ids("run"),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model": NAMES,
        "title": NAMES,
        "system_prompt": QUESTIONS,
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "max_completion_tokens": st.integers(1, 10_000_000),
        "response_format": st.sampled_from(
            [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"a": [1]}}]
        ),
        "metadata": OBJECTS,
    },
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Run], list[Message]]:
    """Ended runs, and messages of them and of none."""
    runs = draw(st.lists(RUNS, max_size=4, unique_by=lambda run: run.id))
    messages: list[Message] = []
    for run in runs:
        messages += run.history_messages()
        for role, content in draw(st.lists(st.tuples(ROLES, TEXTS), max_size=2)):
            messages.append(Message.of(role, content, None, draw(TIMES), id=draw(ids("msg")), metadata=draw(OBJECTS)))
    return runs, list({each.id: each for each in messages}.values())


def put(store: Store, name: str, runs: list[Run], messages: list[Message], **changes: Any) -> None:
    """Make a conversation with this history."""
    store.create_conversation(name, 60, {}, is_unlisted=True)
    store.import_history(name, messages, runs)
    store.update_conversation(name, changes)
    store.publish_conversation(name, 1_700_000_000.5, 1_700_000_100.25)


def take(store: Store, name: str) -> tuple[Any, ...]:
    """Everything that a store has of a conversation, but for its name."""
    conversation = store.get_conversation(name)
    assert conversation is not None
    runs = [(run, dict(run.options.details)) for run in store.list_runs(name, None, 10_000)]
    fields = (conversation.model, conversation.settings, conversation.metadata, conversation.created)
    return (*fields, conversation.touched, conversation.excerpt, store.list_messages(name, 0, 10**6), runs)


def export_file(store: Store, name: str, file_format: ExportFormat) -> bytes:
    """An export, without a server."""
    exported = Exports(store, Scope(store, OPEN)).write(name, file_format)
    with exported.file as file:
        return file.read()


def import_file(store: Store, content: bytes, *, has_lines: bool = False) -> ImportResult:
    """An import, without a server. Raises what `Imports.load` raises."""
    with TemporaryFile() as file:
        file.write(content)
        file.flush()
        return Imports(store, Scope(store, OPEN), ImportQueue(), ClientCaps(store, Caps())).load(
            file, None, 100_000, has_lines=has_lines, copies=False
        )


def serve_store(store: Store, **settings: Any) -> Flask:
    return create_app(Settings(upstream="scripted", **settings), store=store)


def empty_server() -> tuple[MemoryStore, FlaskClient]:
    """An empty store, and a client of its server."""
    store = MemoryStore(1000)
    return store, serve_store(store).test_client()


def export(client: FlaskClient, name: str, file_format: str | None = None) -> TestResponse:
    query = {"client_name": name} | ({} if file_format is None else {"format": file_format})
    return client.get("/conversations/export", query_string=query)


def load(client: FlaskClient, content: bytes | str, kind: str = "application/json", **query: str) -> TestResponse:
    return client.post("/conversations/import", data=content, content_type=kind, query_string=query)
