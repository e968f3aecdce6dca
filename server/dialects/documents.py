"""The path of each dialect's OpenAPI document, by the dialect's name."""

from pathlib import Path

_HERE = Path(__file__).parent

DOCUMENTS = {
    "published": _HERE.parent.parent / "openapi.json",
    "chat": _HERE / "chat.openapi.json",
    "conversations": _HERE / "conversations.openapi.json",
    "sessions": _HERE / "sessions.openapi.json",
    "assistants": _HERE / "openai" / "assistants.openapi.json",
    "access": _HERE / "access.openapi.json",
    "operators": _HERE / "ops.openapi.json",
}
