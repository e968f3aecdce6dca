"""The HTTP vocabularies: each a blueprint, its OpenAPI document, and nothing else."""

from pathlib import Path

_HERE = Path(__file__).parent

DOCUMENTS = {
    "published": _HERE.parent.parent / "openapi.json",
    "chat": _HERE / "chat.openapi.json",
    "sessions": _HERE / "sessions.openapi.json",
    "assistants": _HERE / "assistants.openapi.json",
    "operators": _HERE / "operators.openapi.json",
}
