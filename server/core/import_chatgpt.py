"""ChatGPT's `conversations.json`: a list of conversations, each a tree of messages of which one branch is shown."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from server.core.export_format import LAST_SECOND
from server.core.import_records import Header, Item, PlainMessage, pair_turns, require_few_parts
from server.core.json_file import JsonFile, Span

MAX_NODES = 200_000
"""The most messages of one conversation, those of other branches included."""

TITLE_CHARACTERS = 200

FIELDS = ("title", "create_time", "update_time", "current_node", "conversation_id", "id")

OTHER_CONTENTS = (
    *("code", "execution_output", "model_editable_context", "reasoning_recap", "system_error", "tether_quote"),
    *("tether_browsing_display", "thoughts", "user_editable_context"),
)
"""Kinds of messages without text that are counted by their name; any others are counted as `other`."""

OTHER_PARTS = (
    *("audio_asset_pointer", "image_asset_pointer", "real_time_user_audio_video_asset_pointer"),
    "video_container_asset_pointer",
)
"""Kinds of parts that are no text, likewise."""


def read_conversation(data: JsonFile, span: Span, skipped: Counter[str], now: float) -> Iterator[Item]:
    """The branch of a conversation that ChatGPT shows, its times kept."""
    fields = data.fields(span)
    if "mapping" not in fields or data.kind(fields["mapping"]) != "{":
        raise data.error(span.start, "this conversation has no mapping; is this ChatGPT's conversations.json?")
    known: dict[str, Any] = {}
    for field, each in fields.items():
        value = None if field == "mapping" else data.parse(each)  # Also what is ignored must be JSON.
        if field in FIELDS:
            known[field] = value
    created = _parse_time(known.get("create_time"), now)
    changes = {"title": _parse_title(known.get("title"))}
    name = _parse_name(known.get("conversation_id", known.get("id")))
    yield span, Header(name, changes, created, _parse_time(known.get("update_time"), created))
    branch = _find_branch(data, fields["mapping"], known.get("current_node"))
    yield from pair_turns(_read_branch(data, branch, skipped, created))


def _find_branch(data: JsonFile, mapping: Span, newest: Any) -> list[Span]:
    """Where the nodes from the first one to `newest` stand."""
    nodes: dict[str, tuple[Span, Any]] = {}
    for count, (node_id, span) in enumerate(data.members(mapping)):
        node = data.parse(span)
        if not isinstance(node, dict):
            raise data.error(span.start, "a node of the mapping must be an object")
        parent = node.get("parent")
        nodes[node_id] = span, parent if isinstance(parent, str) else None
        if count >= MAX_NODES:
            raise data.error(span.start, f"a conversation here has more than {MAX_NODES} messages")
    branch: list[Span] = []
    while isinstance(newest, str) and newest in nodes:
        data.pause()
        span, newest = nodes.pop(newest)  # Taken out, so that a circle ends.
        branch.append(span)
    if nodes and not branch:
        raise data.error(mapping.start, "the current_node of this conversation is not in its mapping")
    return branch[::-1]


def _read_branch(data: JsonFile, branch: list[Span], skipped: Counter[str], created: float) -> Iterator[PlainMessage]:
    latest = created
    for span in branch:
        message = data.parse(span).get("message")
        if not isinstance(message, dict):  # The root of the tree.
            continue
        author, content, more = (_fields_of(message, name) for name in ("author", "content", "metadata"))
        role = author.get("role")
        latest = _parse_time(message.get("create_time"), latest)
        if more.get("is_visually_hidden_from_conversation"):
            skipped["hidden"] += 1
        elif role != "user" and role != "assistant":
            skipped[role if role in ("system", "tool") else "other"] += 1
        elif role == "assistant" and message.get("recipient", "all") != "all":
            skipped["tool"] += 1
        else:
            text = _join_parts(data, span, content, skipped)
            model = more.get("model_slug")
            if text.strip():
                yield PlainMessage(span, role, text, latest, model if isinstance(model, str) else None)


def _join_parts(data: JsonFile, span: Span, content: dict[str, Any], skipped: Counter[str]) -> str:
    """The text of a message. What is no text is counted."""
    kind, parts = content.get("content_type"), content.get("parts")
    if kind not in ("text", "multimodal_text") or not isinstance(parts, list):
        skipped[kind if kind in OTHER_CONTENTS else "other"] += 1
        return ""
    require_few_parts(data, span, parts)
    texts: list[str] = []
    for part in parts:
        fields = part if isinstance(part, dict) else {}
        text = fields.get("text") if fields.get("content_type") == "audio_transcription" else part
        if isinstance(text, str):
            texts.append(text)
        else:
            name = fields.get("content_type")
            skipped[name if name in OTHER_PARTS else "other"] += 1
    return "\n\n".join(text for text in texts if text)


def _fields_of(message: dict[str, Any], name: str) -> dict[str, Any]:
    """An object within a message; an empty one if it has none."""
    found = message.get(name)
    return found if isinstance(found, dict) else {}


def _parse_time(value: Any, otherwise: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= LAST_SECOND else otherwise


def _parse_title(value: Any) -> str | None:
    """A title on one line, without control characters; None if there is none."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", value).strip() if isinstance(value, str) else ""
    return text[:TITLE_CHARACTERS] or None


def _parse_name(value: Any) -> str | None:
    is_id = isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z_-]{1,100}", value)
    return f"chatgpt-{value}" if is_id else None
