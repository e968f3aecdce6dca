"""The prompt: a line or several, with what was typed before, and a line below that says where one is."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from rich.cells import cell_len, set_cell_size

from terminal.screen import is_plain

STYLES = {"prompt": "ansigreen", "bottom-toolbar": "noreverse", "bottom-toolbar.text": "noreverse", "info": "dim"}
COLORLESS = dict.fromkeys(("bottom-toolbar", "bottom-toolbar.text"), "noreverse")


class Prompt:
    """Asks at the end of the screen. Enter sends, Alt-Enter adds a line, and a paste is one question."""

    def __init__(
        self, history_file: Path | None, commands: Iterable[str], info: Callable[[int], tuple[str, str]]
    ) -> None:
        """`info` gives the left and the right part of the line below, for a width."""
        history: History = FileHistory(str(history_file)) if history_file else InMemoryHistory()
        self._info = info
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            reserve_space_for_menu=0,
            multiline=True,
            key_bindings=_bindings(),
            style=Style.from_dict(COLORLESS if is_plain() else STYLES),
            color_depth=ColorDepth.DEPTH_4_BIT,
            output=_Output.from_pty(sys.stdout, term=os.environ.get("TERM")),
            bottom_toolbar=self._toolbar,
            prompt_continuation="  ",
        )

    def ask(self, draft: str = "", typed: bytes = b"") -> str | None:
        """The next question; None after Ctrl-D. Ctrl-C empties the prompt.

        The prompt begins with `draft`, and then with the keys that were typed before it was there.
        """
        keys: list[KeyPress] = []
        parser = Vt100Parser(keys.append)
        parser.feed_and_flush(typed.decode("utf-8", "ignore"))
        store_typeahead(self._session.input, keys)
        while True:
            try:
                return self._session.prompt([("class:prompt", "› ")], default=draft)
            except KeyboardInterrupt:
                draft = ""
            except EOFError:
                return None

    def ask_short(self, question: str) -> str | None:
        """A short answer, which is not remembered; None if there is none."""
        try:
            return PromptSession[str](output=self._session.output).prompt(question)
        except (KeyboardInterrupt, EOFError):
            return None

    def _toolbar(self) -> StyleAndTextTuples:
        width = shutil.get_terminal_size().columns
        left, right = self._info(width)
        if cell_len(left) > width - 2:
            left = set_cell_size(left, width - 2)
        space = width - 2 - cell_len(left) - cell_len(right)
        line = left + (" " * space + right if space > 1 else "")
        return [("class:info", "─" * width + "\n" + line)]


class _Output(Vt100_Output):
    """Never asks where the cursor is: not every terminal tells, and the line below needs no more than its own rows."""

    def get_rows_below_cursor_position(self) -> int:
        return 1


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def add_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
