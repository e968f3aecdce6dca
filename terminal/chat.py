"""`chat`: questions at a prompt, replies below them, and a line that says where one is."""

import os
import re
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.text import Text

from terminal import words
from terminal.client import Client, Refused, ServerDown, UsageError
from terminal.commands import message_rows
from terminal.inert import make_inert_line
from terminal.prompt import Prompt
from terminal.render import indent, wrap
from terminal.reply import SERVER_DOWN, STOPPED, Follower, join_fitting, show_reply
from terminal.screen import CTRL_D, Screen, make_console, quiet_keys, spread
from terminal.slash import COMMANDS, run_slash
from terminal.stream import End

SHOWN_MESSAGES = 4
"""How many messages of a conversation are shown when it is opened."""
ENTER, ALT_ENTER = re.compile(rb"(?<!\x1b)\r"), b"\x1b\r"


def chat(client: Client, arguments: Namespace) -> int:
    """Talk until Ctrl-D."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UsageError("chat needs a terminal; in a pipe, use ask.")
    with quiet_keys(outlive_ctrl_c=True):
        talk = Chat(client, arguments.client_name)
        talk.open(arguments.client_name)
        talk.run()
    return 0


def history_file() -> Path | None:
    """Where typed questions are remembered; None if that is not possible."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "conversations"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "questions"
        path.touch(mode=0o600)
    except OSError:
        return None
    return path


class Chat:
    """One terminal, and the conversation that is open in it."""

    def __init__(self, client: Client, client_name: str) -> None:
        self.client = client
        self.client_name = client_name
        self.screen = Screen(make_console())
        self._prompt = Prompt(history_file(), COMMANDS, self._info)
        self._model = ""
        self._read = 0
        """How many messages the model reads with the next question."""
        self._draft = ""

    def run(self) -> None:
        """Ask questions until Ctrl-D, also while a reply is written."""
        while not self._is_left() and (question := self._prompt.ask(*self._take_draft())) is not None:
            if not question.strip():
                continue
            try:
                if not run_slash(self, question.strip()):
                    self.put_question(question)
            except (Refused, ServerDown, UsageError) as error:
                self.tell(str(error), "✕", "red")
            except KeyboardInterrupt:  # Of a command that takes long, or a moment after a reply has ended.
                self.write([])

    def open(self, client_name: str) -> None:
        """Show a conversation's end and go on with it; also with the reply that is being written in it."""
        before, self.client_name = self.client_name, client_name
        try:
            details = self.refresh()
        except Refused:
            self.client_name = before
            raise
        self._print_head()
        if details is None or not details["message_count"]:
            self.write([Text("  " + words.say(FIRST), "dim")] if details is None else [], gap=details is None)
        else:
            self._print_end(details)
        for run in (details or {}).get("open_runs", [])[:1]:
            question = wrap(Text(make_inert_line(run["input"])), self.screen.width - 3)
            self.write(list(indent(question, "› ", "green")))
            self.show_run(run)

    def put_question(self, question: str) -> None:
        """Ask, and show the reply. A question that did not reach the server comes back into the prompt."""
        body, key = {"message": question, "client_name": self.client_name}, uuid.uuid4().hex
        self._show(lambda: self.client.start_reply(body, key), question)

    def show_run(self, run: dict[str, Any]) -> None:
        """Show the reply of a run that was begun."""
        # Nothing is kept of a regeneration that is stopped.
        stopped = "Stopped · the earlier reply stays" if run.get("replaces") else STOPPED
        self._show(lambda: str(run["id"]), stopped=stopped)

    def tell(self, sentence: str, sign: str = "", style: str = "") -> None:
        """Print a sentence below what is there."""
        rows = wrap(Text(make_inert_line(sentence)), self.screen.width - 3)
        self.write(list(indent(rows, f"{sign or ' '} ", style)))

    def write(self, rows: list[Text], gap: bool = True) -> None:
        self.screen.write([*rows, Text()] if gap else rows)

    def confirm(self, question: str) -> bool:
        """Whether the answer is yes; anything else is no."""
        self.tell(question)
        answer = (self._prompt.ask_short("  y/N ") or "").strip().lower()
        self.write([])
        return answer in ("y", "yes", "ㅛ", "네")

    def refresh(self) -> dict[str, Any] | None:
        """Read model and length of the conversation again. Returns its details, None if there is none yet."""
        details = self.client.conversation(self.client_name)
        self._read = details["message_count"] if details else 0
        model = (details["model"] or details["default_model"]) if details else None
        self._model = make_inert_line(model or self.client.get("/model", client_name=self.client_name)["model"] or "")
        return details

    def _show(self, start: Callable[[], str], question: str = "", stopped: str = STOPPED) -> None:
        reply = Follower(self.client, start)

        def is_draft(end: End) -> bool:
            return bool(question) and (end.code == SERVER_DOWN or not reply.has_begun)

        def hint(end: End) -> str:
            # Without a run, `/retry` would have an older reply written anew.
            return words.say("Enter asks again" if is_draft(end) else "/retry asks again")

        end = show_reply(self.screen, reply, self._footer, hint, stopped, self._is_left)
        if end.status != "completed":
            # A question that was typed behind this one is sent when its reader has seen what came of this one.
            self.screen.read_keys()
            self.screen.typed = ENTER.sub(ALT_ENTER, self.screen.typed)
        if is_draft(end):
            self._draft = question
        if end.code != SERVER_DOWN and end.status != "running":
            self.refresh()

    def _is_left(self) -> bool:
        """Whether Ctrl-D was typed while there was no prompt."""
        self.screen.read_keys()
        return CTRL_D in self.screen.typed

    def _take_draft(self) -> tuple[str, bytes]:
        """What the prompt begins with: a question that was not asked, and the keys that were typed meanwhile."""
        draft, self._draft = self._draft, ""
        typed, self.screen.typed = self.screen.typed, b""
        return draft, typed

    def _info(self, width: int) -> tuple[str, str]:
        """The line below the prompt: its left and its right part."""
        reads = words.say("reads 1 message") if self._read == 1 else words.say("reads {} messages", f"{self._read:,}")
        parts = [make_inert_line(self.client_name), self._model, reads if self._read else words.say("new conversation")]
        return " " + join_fitting(parts, width - 3), words.say("Alt-Enter adds a line")

    def _footer(self, width: int) -> list[Text]:
        left, right = self._info(width)
        return [Text("─" * width, "dim"), spread(Text(left, "dim"), right, width)]

    def _print_head(self) -> None:
        parts = [make_inert_line(self.client_name), self._model, make_inert_line(self.client.host)]
        head = Text().append("ㄷ·", "bold green").append(f" {words.say('Conversations')}", "bold")
        width = self.screen.width - 1
        head.append("   " + join_fitting(parts, width - head.cell_len - 3), "dim")
        head.truncate(width, overflow="ellipsis")
        keys = [f"/help {words.say('commands')}", words.say("Ctrl-C stops a reply"), words.say("Ctrl-D leaves")]
        self.write([head, Text("    " + join_fitting(keys, width - 4, "   "), "dim")])

    def _print_end(self, details: dict[str, Any]) -> None:
        page = self.client.get("/conversations/messages", client_name=self.client_name, limit=SHOWN_MESSAGES)
        count = page["message_count"]
        if count > len(page["messages"]):
            self.write([Text("  … " + words.say("{} messages", f"{count - len(page['messages']):,}"), "dim")])
        for message in page["messages"]:
            self.write(message_rows(message, self.screen.width), gap=False)


FIRST = "Ask anything. The reply is finished even if you close the window."
