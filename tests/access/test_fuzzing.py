"""Whatever is sent for an identifier, a header, a name or a position, no client gets what is another's."""

import json
import unicodedata
from collections.abc import Callable
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from server.store.protocol import Store
from tests.access.people import Person, create_key, send
from tests.access.test_isolation import TAKING_IDS, Operation, belongings, call, name_of

NUMBERS = count()

CHANGES: list[Callable[[str], str]] = [
    str.upper,
    str.title,
    lambda text: f" {text}",
    lambda text: f"{text} ",
    lambda text: f"{text}\u200b",
    lambda text: f"{text}\x00",
    lambda text: f"{text}*",
    lambda text: f"{text}/",
    lambda text: f"./{text}",
    lambda text: f"{text}/../{text}",
    lambda text: f"{text}\n",
    lambda text: f'{text}"',
    lambda text: quote(text, safe="").replace("a", "%61"),
    lambda text: text.replace("a", "\u0430"),
    lambda text: text.replace("a", "\uff41"),
    lambda text: text[:-1],
    lambda text: text * 2,
    lambda text: unicodedata.normalize("NFD", f"{text}é"),
]
"""What might be taken for the same identifier."""

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
"""Names that the documents allow."""

HEADER_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)

HEADERS = (
    *("Accept", "Accept-Encoding", "Authorization", "Content-Type", "Cookie", "Host", "Idempotency-Key"),
    *("If-None-Match", "Last-Event-ID", "Origin", "Prefer", "Range", "X-API-Key", "X-Forwarded-For", "X-Request-ID"),
    *("OpenAI-Beta", "Transfer-Encoding", "X-HTTP-Method-Override", "X-Original-URL"),
)


@pytest.fixture(scope="module")
def store(protected: Flask) -> Store:
    found: Store = protected.extensions["store"]
    return found


@pytest.mark.parametrize(("operation", "name"), TAKING_IDS, ids=name_of)
@settings(max_examples=12)
@given(data=st.data())
def test_nothing_that_resembles_an_identifier_opens_what_is_anothers(
    visitor: FlaskClient, store: Store, ada: Person, eve: Person, operation: Operation, name: str, data: st.DataObject
) -> None:
    resembling = st.sampled_from(CHANGES).map(lambda change: change(ada.ids[name]))
    value = data.draw(resembling | st.text(max_size=300))
    before = belongings(store, "ada")
    ids = {each: eve.ids[each] for each in operation.ids} | {name: value}
    answer = call(
        visitor,
        operation,
        {each: quote(ids[each]) if f"{{{each}}}" in operation.path else ids[each] for each in ids},
        eve.key,
    )
    assert answer.status_code < 500, answer.text
    assert ada.mark not in answer.text
    assert belongings(store, "ada") == before


@settings(max_examples=150)
@given(
    headers=st.dictionaries(st.sampled_from(HEADERS), HEADER_VALUES, max_size=5),
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]),
    operation=st.sampled_from([each for each, _ in TAKING_IDS]),
)
def test_no_header_and_no_method_opens_anything_without_a_key(
    visitor: FlaskClient, ada: Person, headers: dict[str, str], method: str, operation: Operation
) -> None:
    path = operation.path
    for name in operation.ids:
        path = path.replace(f"{{{name}}}", ada.ids[name])
    environ: dict[str, Any] = {"REMOTE_ADDR": f"10.{next(NUMBERS) // 250}.{next(NUMBERS) % 250}.1"}
    answer = visitor.open(f"{path}?client_name=ada", method=method, headers=headers, environ_base=environ)
    assert answer.status_code < 500, answer.text
    assert ada.mark not in answer.text
    # A preflight, or what the server does not take at all, is answered before the key.
    assert answer.status_code >= 400 or method == "OPTIONS"


@settings(max_examples=60)
@given(names=st.tuples(NAMES, NAMES | st.sampled_from(CHANGES)))
def test_a_key_opens_its_name_to_the_letter(visitor: FlaskClient, names: tuple[str, Any]) -> None:
    number = next(NUMBERS)
    own = f"n{number} {names[0].replace('*', '')}"
    other = names[1](own) if callable(names[1]) else f"n{number} {names[1]}"
    key = create_key(visitor, own)["key"]
    answer = send(visitor, "POST", "/query", key, json={"client_name": own, "input": "between us"})
    assert answer.status_code == 200, answer.text
    answer = send(visitor, "POST", "/query", key, json={"client_name": other, "input": "between us"})
    assert answer.status_code == (200 if other == own else answer.status_code)
    assert answer.status_code in (200, 400, 403)
    assert (answer.status_code == 200) == (other == own)


@settings(max_examples=120)
@given(
    position=st.integers(-3, 40).map(str) | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=25)
)
def test_a_stream_is_resumed_where_it_can_be_and_by_its_owner_alone(
    visitor: FlaskClient, ada: Person, eve: Person, position: str
) -> None:
    path = f"/chat/stream/{ada.ids['stream_id']}"
    headers = {"Last-Event-ID": position}
    answer = send(visitor, "GET", path, ada.key, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        frames = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
        (whole,) = (frame["full_content"] for frame in frames if frame["type"] == "END")
        rest = "".join(frame["content"] for frame in frames if frame["type"] == "CHUNK")
        assert rest == whole[int(position or "0") :]
    other = send(visitor, "GET", path, eve.key, headers=headers)
    # A position that is none is refused before anybody looks for the stream.
    assert other.status_code == (404 if answer.status_code == 200 else other.status_code)
    assert other.status_code in (400, 404)
    assert ada.mark not in other.text
