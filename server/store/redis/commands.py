"""The Lua scripts that Redis runs. Each is atomic, and most are named after the method of the store that runs them.

Those in `independent` do not use `shared.lua`, because they belong to no conversation. Every script that writes may be
repeated with the same arguments, because its answer was lost: it then changes nothing more and gives the same answer.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

Argument = str | bytes | int | float
"""A float is sent with all its digits."""

Command = tuple[Argument, ...]
"""A Redis command: its name and its arguments."""

_FOLDER = Path(__file__).parent / "scripts"


def _read(path: Path) -> str:
    """A script's source: its first line, which has its flags for Redis, then `shared.lua`, then the rest."""
    flags, _, rest = path.read_text().partition("\n")
    return "\n".join((flags, (_FOLDER / "shared.lua").read_text(), rest))


_sources = {path.stem: _read(path) for path in _FOLDER.glob("*.lua") if path.stem != "shared"}
_sources |= {path.stem: path.read_text() for path in (_FOLDER / "independent").glob("*.lua")}
_hashes = {name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest() for name, source in _sources.items()}
_names = {hash_: name for name, hash_ in _hashes.items()}


def evalsha(name: str, key: str, *arguments: Argument, more_keys: Sequence[str] = ()) -> Command:
    """The command that runs a script by its hash. Redis knows the hash if it has run the source since its start."""
    return ("EVALSHA", _hashes[name], 1 + len(more_keys), key, *more_keys, *arguments)


def eval_source(command: Command) -> Command:
    """The same command with the script's source, which any Redis can run."""
    return ("EVAL", _sources[_names[str(command[1])]], *command[2:])
