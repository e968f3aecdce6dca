"""The commands that do one thing and end: ask, history, models, export and import."""

import re
import sys
import uuid
from argparse import Namespace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rich.text import Text

from terminal import words
from terminal.client import KEY_CODES, Client, Refused, UsageError
from terminal.inert import decode_pieces, escape_json, make_inert, make_inert_line
from terminal.render import indent, render, wrap
from terminal.reply import SERVER_DOWN, Follower, describe_end, indented, print_reply, show_reply
from terminal.screen import Screen, make_console, quiet_keys, terminal_size
from terminal.stream import End

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of any program."""


UNSAFE = re.compile(r"""[\x00-\x1f\x7f-\x9f!"#$%&'*/:;<=>?@\[\\\]^`{|}~]""")
"""What a shell or a file system may read as more than a part of a name; parentheses, which titles often have, stay."""


def ask(client: Client, arguments: Namespace) -> int:
    """Ask one question. Returns 0 if the reply was completed."""
    body = {"message": read_question(arguments.question), "client_name": arguments.client_name}
    body |= {"model": arguments.model, "system_prompt": arguments.system}
    body = {name: value for name, value in body.items() if value is not None}
    key = uuid.uuid4().hex
    reply = Follower(client, lambda: client.start_reply(body, key))
    if sys.stdout.isatty():
        with quiet_keys():
            end = show_reply(Screen(make_console()), reply, lambda width: [])
    else:
        end = print_reply(reply)
        if end.status not in ("completed", "cancelled"):
            sentence = make_inert_line(end.error)
            told = sentence if end.code == SERVER_DOWN else f"{words.SIGNS[end.status]} {sentence} ({end.code})"
            print(told, file=sys.stderr)
    return exit_code_of(end)


def exit_code_of(end: End) -> int:
    if end.code == SERVER_DOWN or end.code in KEY_CODES:
        return 2
    return {"completed": 0, "cancelled": INTERRUPTED}.get(end.status, 1)


def read_question(arguments: list[str]) -> str:
    """The question of the arguments, with what is piped in below it. Raises UsageError if there is none."""
    given = " ".join(arguments).strip()
    piped = "" if sys.stdin is None or sys.stdin.isatty() else read_text(sys.stdin.buffer.read())
    question = "\n\n".join(part for part in (given, piped.strip("\r\n")) if part.strip())
    if not question:
        raise UsageError('There is no question; write it behind the command: ask "Why is the sky blue?"')
    return question


def read_text(content: bytes) -> str:
    return content.decode("utf-8-sig", "replace")


def history(client: Client, arguments: Namespace) -> int:
    """Print a conversation's messages, oldest first."""
    client.require_conversation(arguments.client_name)
    found: list[dict[str, Any]] = []
    before, left = None, arguments.limit
    while left is None or left > 0:
        page = client.get(
            "/conversations/messages",
            client_name=arguments.client_name,
            limit=1000 if left is None else min(left, 1000),
            before=before,
        )
        found[:0] = page["messages"]
        before = page.get("next")
        left = None if left is None else left - len(page["messages"])
        if before is None:
            break
    console = make_console()
    for message in found:
        for row in message_rows(message, terminal_size()[0] if sys.stdout.isatty() else None):
            console.print(row, soft_wrap=True)
    return 0


def message_rows(message: dict[str, Any], width: int | None) -> list[Text]:
    """A message of the history; without a width as plain text, whose lines are not broken."""
    content = make_inert(message["content"])
    is_question = message["role"] == "user"
    if width is None:
        rows = [Text(f"› {content}" if is_question else content), Text()]
    elif is_question:
        rows = [*indent(wrap(Text(content), width - 3), "› ", "green"), Text()]
    else:
        rows = [*indented(render(content, width - 2)), Text()]
    if not is_question and width is not None and message.get("status"):
        end = End(message["status"], usage=message.get("usage"))
        if end.status != "completed" or end.usage:
            rows += [*describe_end(end, message.get("seconds"), width), Text()]
    return rows


def models(client: Client, arguments: Namespace) -> int:
    """Print the models, and when each is shut down if the upstream tells."""
    current = client.get("/model", client_name=arguments.client_name)["model"] if arguments.client_name else None
    console = make_console()
    found = client.models()
    longest = max((len(make_inert_line(each["id"])) for each in found), default=0)
    for model in found:
        row = Text("● " if model["id"] == current else "  ", "green") if current else Text()
        name, end = make_inert_line(model["id"]), shutdown_of(model)
        row = Text().append_text(row).append(name)
        if end:
            row.append(" " * (longest - len(name) + 3)).append(f"Shuts down on {end.day} {end:%B} {end.year}", "yellow")
        console.print(row, soft_wrap=True)
    return 0


def shutdown_of(model: dict[str, Any]) -> date | None:
    """The day on which the upstream shuts a model down; None if it tells none."""
    told = model.get("shutdown_date")
    try:
        if isinstance(told, (int, float)):
            return datetime.fromtimestamp(told, UTC).date()
        return datetime.fromisoformat(str(told)).date() if told else None
    except (ValueError, OverflowError, OSError):
        return None


def export(client: Client, arguments: Namespace) -> int:
    """Write a conversation to a file, or to the output if that is a pipe or `--out -` says so."""
    client.require_conversation(arguments.client_name)
    target = arguments.out or (None if sys.stdout.isatty() else "-")
    if target != "-":
        print(make_inert_line(f"Written to {save_export(client, arguments.client_name, arguments.format, target)}."))
        return 0
    with _exported(client, arguments.client_name, arguments.format) as response:
        clean = make_inert if arguments.format == "markdown" else escape_json
        for piece in decode_pieces(response.iter_bytes()):
            sys.stdout.write(clean(piece))
    return 0


def save_export(client: Client, client_name: str, format_: str, target: str | None) -> Path:
    """Write an export as it is to `target`, or under the name that the server gives it. Returns the path.

    A file that the server's name would replace gets a number instead.
    """
    with _exported(client, client_name, format_) as response:
        path = Path(target) if target else _free(_name_of(response.headers.get("Content-Disposition", "")))
        try:
            with path.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
        except OSError as problem:
            raise UsageError(f"{path} cannot be written: {problem.strerror}.") from None
    return path


def _exported(client: Client, client_name: str, format_: str) -> Any:
    return client.stream("/conversations/export", client_name=client_name, format=format_)


def _name_of(disposition: str) -> Path:
    """The file name of an attachment, without any folder."""
    encoded = re.search(r"filename\*=UTF-8''([^;\s]+)", disposition, re.IGNORECASE)
    plain = re.search(r'filename="([^"]+)"|filename=([^;\s]+)', disposition)
    name = unquote(encoded[1]) if encoded else (plain[1] or plain[2] if plain else "")
    clean = UNSAFE.sub("_", make_inert_line(name)).lstrip(".- ")
    return Path(clean or "conversation.json")


def _free(path: Path) -> Path:
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem} ({number})")
        number += 1
    return free


def import_(client: Client, arguments: Namespace) -> int:
    """Bring the conversations of a file in."""
    lines = Path(arguments.file).suffix.lower() in (".jsonl", ".ndjson")
    media_type = "application/jsonl" if lines else "application/json"
    on_conflict = "copy" if arguments.copy else None
    try:
        with Path(arguments.file).open("rb") as file:
            result = client.import_file(file, media_type, arguments.client_name, on_conflict)
    except OSError as problem:
        raise UsageError(f"{arguments.file} cannot be read: {problem.strerror}.") from None
    except Refused as error:
        if error.code == "conversation_exists":
            error.sentence = "There is a conversation of that name already; --copy imports under another name."
        raise
    count, skipped = len(result["conversations"]), sum(result["skipped"].values())
    told = f"{count} conversation{'s' * (count != 1)} imported"
    if skipped:
        told += f"; {skipped} part{'s that are not text were' if skipped != 1 else ' that is not text was'} left out"
    print(f"{told}.")
    for each in result["conversations"]:
        print(make_inert_line(f"{each['client_name']} · {each['message_count']} messages · {each['title']}"))
    return 0
