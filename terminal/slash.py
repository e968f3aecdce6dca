"""What can be typed at the prompt beside questions: `/model`, `/list` and their like."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from terminal import words
from terminal.client import Refused, UsageError
from terminal.commands import save_export
from terminal.inert import make_inert_line
from terminal.render import indent, wrap

if TYPE_CHECKING:
    from terminal.chat import Chat

_COMMAND = re.compile(r"/([a-z]+)(?:[ \t]+(.*))?", re.DOTALL)
FORMATS = {".json": "json", ".jsonl": "jsonl", ".md": "markdown"}
LISTED = 15
"""How many conversations `/list` shows."""


def run_slash(chat: "Chat", line: str) -> bool:
    """Do what a line with a command says. Returns False if it is a question.

    Raises Refused, ServerDown and UsageError.
    """
    match = _COMMAND.fullmatch(line)
    if match is None:
        return False
    chat.write([])
    command = COMMANDS.get(f"/{match[1]}")
    if command is None:
        chat.tell(f"/{match[1]} is no command; /help lists them.", "✕", "red")
    else:
        command[0](chat, (match[2] or "").strip())
    return True


def _set_model(chat: "Chat", name: str) -> None:
    if name:
        try:
            chat.client.post("/model", {"client_name": chat.client_name, "model": name})
        except Refused as error:
            if error.code == "unknown_model":
                error.sentence = f'There is no model "{name}"; /model lists them.'
            raise
    chat.refresh()
    details = chat.client.conversation(chat.client_name)
    current = name or (details and (details["model"] or details["default_model"]))
    for model in chat.client.models() if not name else [{"id": name}]:
        is_current = model["id"] == current
        sign = Text().append("● " if is_current else "  ", "green")
        chat.write([sign.append(make_inert_line(model["id"]), "bold" if is_current else "")], gap=False)
    chat.write([])


def _set_system(chat: "Chat", text: str) -> None:
    if text:
        prompt = None if text == "none" else text
        chat.client.patch("/conversations/details", {"client_name": chat.client_name, "system_prompt": prompt})
    details = chat.client.conversation(chat.client_name)
    prompt = details["system_prompt"] if details else None
    told = f"System prompt: {prompt} · /system none takes it back"
    chat.tell(told if prompt else "No system prompt; /system TEXT sets one.")


def _new(chat: "Chat", name: str) -> None:
    made = f"terminal-{datetime.now():%Y-%m-%d-%H%M%S}"
    opened = name or chat.client.own_name(made)
    if name or opened.endswith(made):
        chat.open(opened)
    else:
        chat.tell(f'The key opens "{opened}" and no other conversation; /clear empties it.')


def _open(chat: "Chat", name: str) -> None:
    if not name:
        chat.tell("/open NAME opens a conversation; /list shows their names.")
    elif chat.client.conversation(name) is None:
        chat.tell(f'There is no conversation "{name}"; /list shows them, and /new {name} starts it.', "✕", "red")
    else:
        chat.open(name)


def _list(chat: "Chat", text: str) -> None:
    page = chat.client.get("/conversations", q=text or None, limit=LISTED)
    found = page["conversations"]
    if not found:
        empty = (
            f'No conversation contains "{text}".' if text else "No conversations yet. Your first question starts one."
        )
        chat.tell(empty if text else words.say(empty))
        return
    names = [make_inert_line(each["client_name"]) for each in found]
    column = min(max(map(cell_len, names)), 30)
    for each, name in zip(found, names, strict=True):
        row = Text().append("● " if each["client_name"] == chat.client_name else "  ", "green").append(name)
        row.append(" " * max(column - cell_len(name), 0) + "   ").append(make_inert_line(each["title"]), "dim")
        status = each.get("status")
        if status and status != "completed":
            row.append(f" {words.SIGNS[status]}", words.STYLES[status])
        row.truncate(chat.screen.width - 1, overflow="ellipsis")
        chat.write([row], gap=False)
    more = [Text("  … /list WORDS searches", "dim")] if "next" in page else []
    chat.write(more)


def _clear(chat: "Chat", _: str) -> None:
    details = chat.client.conversation(chat.client_name)
    if details is None or not (details["message_count"] or chat.client.newest_run(chat.client_name)):
        chat.tell("There is nothing to clear.")
        return
    count = details["message_count"]
    sentence = f"{count:,} message{'s' * (count != 1)} will be deleted. This cannot be undone."
    if chat.confirm(f"Clear this conversation? {sentence} Model, instructions and usage stay."):
        chat.client.delete("/history", client_name=chat.client_name)
        chat.refresh()
        chat.tell("The history is cleared.")
    else:
        chat.tell("Nothing was changed.")


def _export(chat: "Chat", text: str) -> None:
    format_, _, target = text.partition(" ")
    if format_ not in ("", *FORMATS.values()):
        guessed = FORMATS.get(Path(text).suffix.lower())
        if guessed is None:
            raise UsageError("/export takes json, jsonl or markdown, or a file that ends in .json, .jsonl or .md.")
        format_, target = guessed, text
    chat.client.require_conversation(chat.client_name)
    path = save_export(chat.client, chat.client_name, format_ or "json", target.strip() or None)
    chat.tell(f"Written to {path}.")


def _title(chat: "Chat", text: str) -> None:
    name = {"client_name": chat.client_name}
    if text:
        chat.client.patch("/conversations/details", {**name, "title": make_inert_line(text)})
        title = text
    else:
        title = chat.client.post("/conversations/title", name)["title"]
    chat.tell(f"Title: {title}")


def _retry(chat: "Chat", _: str) -> None:
    """Ask a failed question again; have the last reply written anew if it did not fail."""
    try:
        run = chat.client.newest_run(chat.client_name)
    except Refused as error:
        if error.status != 404:
            raise
        run = None
    if run is None:
        chat.tell("There is no question to ask again.")
        return
    name = {"client_name": chat.client_name}
    if run["status"] in ("failed", "interrupted", "expired"):
        begun = chat.client.post("/conversations/runs/retry", {**name, "run_id": run["id"]})
    else:
        begun = chat.client.post("/conversations/regenerate", name)
    question = wrap(Text(make_inert_line(begun["input"])), chat.screen.width - 3)
    chat.write(list(indent(question, "› ", "green")), gap=False)
    chat.show_run(begun)


def _help(chat: "Chat", _: str) -> None:
    rows = [Text(f"  {name:<10}").append(words.say(told), "dim") for name, (_, told) in COMMANDS.items()]
    keys = [
        ("Enter", "sends; Alt-Enter adds a line"),
        ("↑ ↓", "earlier questions"),
        ("Ctrl-C", "stops the reply and keeps it; at the prompt, empties it"),
        ("Ctrl-D", "leaves; a reply is finished without you"),
    ]
    chat.write([*rows, Text(), *(Text(f"  {name:<10}").append(words.say(told), "dim") for name, told in keys)])


COMMANDS: dict[str, tuple[Callable[["Chat", str], None], str]] = {
    "/model": (_set_model, "NAME sets the model; alone, lists them"),
    "/system": (_set_system, "TEXT sets the system prompt; none takes it back"),
    "/new": (_new, "[NAME] starts a conversation"),
    "/list": (_list, "[WORDS] lists or searches conversations"),
    "/open": (_open, "NAME opens a conversation"),
    "/clear": (_clear, "deletes the messages of this conversation"),
    "/export": (_export, "[json|jsonl|markdown] [FILE] writes it to a file"),
    "/title": (_title, "[TEXT] sets the title; alone, has one written"),
    "/retry": (_retry, "asks a failed question again, or has the reply written anew"),
    "/help": (_help, "shows this"),
}
