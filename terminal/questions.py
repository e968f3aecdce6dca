"""The questions of a batch: read from a file, each with a `request_id` that stays the same from run to run."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terminal.client import UsageError
from terminal.inert import make_inert_line

FIELDS = ("input", "client_name", "model", "system_prompt")


@dataclass(frozen=True, slots=True)
class Question:
    line: int
    """Its line in the file, from 1."""
    fields: dict[str, Any]
    """As the file has them, with those that the server does not know."""
    request_id: str

    @property
    def client_name(self) -> str | None:
        name: str | None = self.fields.get("client_name")
        return name

    def body(self) -> dict[str, Any]:
        """What `POST /chat` takes."""
        sent = {name: self.fields[name] for name in FIELDS[1:] if self.fields.get(name) is not None}
        return {"message": self.fields["input"], **sent}


def read_questions(path: Path) -> list[Question]:
    """The questions in the order of their lines; empty lines are left out.

    The file is JSON Lines if its name or its first line says so, else one question a line. Raises UsageError with the
    number of the first line that cannot be used.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}.") from None
    except UnicodeDecodeError as problem:
        number = problem.object.count(b"\n", 0, problem.start) + 1
        raise UsageError(f"Line {number} of {path} is not in UTF-8; nothing was asked.") from None
    # At newlines only: a question may hold other characters at which `splitlines` breaks lines.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{path} has no questions.")
    is_json = path.suffix.lower() in (".jsonl", ".ndjson") or lines[0][1].startswith("{")
    seen: Counter[str] = Counter()
    found = []
    for number, line in lines:
        fields = _parse(path, number, line) if is_json else {"input": line}
        content = json.dumps({name: fields.get(name) for name in FIELDS}, sort_keys=True)
        found.append(Question(number, fields, _request_id(path, content, seen[content])))
        seen[content] += 1
    return found


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    def refuse(why: str) -> UsageError:
        return UsageError(f"Line {number} of {path} {why}; nothing was asked.")

    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as problem:
        why = problem.msg if isinstance(problem, json.JSONDecodeError) else "too deep"
        raise refuse(f"is not JSON ({make_inert_line(why)})") from None
    if not isinstance(fields, dict):
        raise refuse('is no JSON object such as {"input": "…"}')
    for name in FIELDS:
        if fields.get(name) is not None and not isinstance(fields[name], str):
            raise refuse(f"has {name} as no text; write it in quotes")
    if not fields.get("input"):
        raise refuse("has no input")
    return fields


def _request_id(path: Path, content: str, repetition: int) -> str:
    """Of the question itself, not of its line: lines may be added above it.

    A question that the file has twice is asked twice, and another file's questions are its own.
    """
    key = json.dumps([path.name, content, repetition])
    return f"batch-{hashlib.sha256(key.encode()).hexdigest()[:40]}"
