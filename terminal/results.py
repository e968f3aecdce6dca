"""The results of a batch: a file of JSON Lines that a second run continues."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from terminal.client import UsageError
from terminal.inert import escape_json
from terminal.questions import Question


class Results:
    """Each result is written when it comes, and all are put in order at the end."""

    def __init__(self, path: Path, questions: list[Question]) -> None:
        """Reads the results that are there already. Raises UsageError if the file cannot be read or written."""
        self._path = path
        self._questions = questions
        self._by_id: dict[str, dict[str, Any]] = {}
        wanted = {each.request_id for each in questions}
        try:
            path.touch()
            for line in path.read_bytes().split(b"\n"):
                with suppress(ValueError, TypeError, LookupError):  # A line that a crash cut off is asked again.
                    result = json.loads(line)
                    if result["request_id"] in wanted and result["status"] == "completed":
                        self._by_id[result["request_id"]] = result
            self._file = path.open("ab")
            if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
                self._file.write(b"\n")
        except OSError as problem:
            raise UsageError(f"{path} cannot be written: {problem.strerror}.") from None

    def __contains__(self, question: Question) -> bool:
        return question.request_id in self._by_id

    def add(self, question: Question, outcome: dict[str, Any]) -> None:
        result = {**question.fields, "line": question.line, "request_id": question.request_id, **outcome}
        self._by_id[question.request_id] = result
        self._file.write(_dump(result))
        self._file.flush()

    def failed(self) -> int:
        return sum(result["status"] != "completed" for result in self._by_id.values())

    def close(self) -> None:
        """Put the results in the order of their questions, in one step."""
        self._file.close()
        ordered = self._path.with_name(f"{self._path.name}.new")
        with ordered.open("wb") as file:
            for question in self._questions:
                if question in self:
                    file.write(_dump({**self._by_id[question.request_id], "line": question.line}))
        ordered.replace(self._path)


def _dump(result: dict[str, Any]) -> bytes:
    # Half of a surrogate pair, which JSON can escape and UTF-8 cannot hold, stays an escape.
    try:
        return escape_json(json.dumps(result, ensure_ascii=False)).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(result).encode() + b"\n"
