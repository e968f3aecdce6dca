"""The scripts that Redis runs, one for each call of a store: what a script does is done at once or not at all.

Those in `alone` have to do with no conversation, and share nothing. Every script that changes something may be run
again with the same arguments, because its answer was lost: it then changes nothing more and gives the same answer.
"""

import hashlib
from pathlib import Path

Argument = str | bytes | int | float
"""Of a float, Redis gets all digits."""

Command = tuple[Argument, ...]
"""A command of Redis: its name, and what follows that."""

_FOLDER = Path(__file__).parent / "scripts"


def _read(path: Path) -> str:
    """A script's text: its first line, which tells Redis what it may do, then what all share, then the rest."""
    flags, _, rest = path.read_text().partition("\n")
    return "\n".join((flags, (_FOLDER / "shared.lua").read_text(), rest))


_texts = {path.stem: _read(path) for path in _FOLDER.glob("*.lua") if path.stem != "shared"}
_texts |= {path.stem: path.read_text() for path in (_FOLDER / "alone").glob("*.lua")}
_marks = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in _texts.items()}
_names = {mark: name for name, mark in _marks.items()}


def evalsha(name: str, key: str, *arguments: Argument) -> Command:
    """The command that runs the script of that name, where Redis has seen it since it was started."""
    return ("EVALSHA", _marks[name], 1, key, *arguments)


def eval_source(command: Command) -> Command:
    """The same command with the script's text, which any Redis can run."""
    return ("EVAL", _texts[_names[str(command[1])]], *command[2:])
