"""The settings that a server started in this folder would read, and what is wrong with them. No value is ever shown."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from terminal.findings import Finding, bad, good, unsettled

ROOT = Path(__file__).parent.parent
MISNAMED = {
    **dict.fromkeys(
        ("OPENAI_KEY", "OPENAI_APIKEY", "OPEN_AI_KEY", "OPENAI_TOKEN", "OPENAI_SECRET_KEY"), "OPENAI_API_KEY"
    ),
    **dict.fromkeys(("OPENAI_API_BASE", "OPENAI_URL", "OPENAI_BASEURL", "OPENAI_API_URL"), "OPENAI_BASE_URL"),
}
PLACEHOLDERS = ("...", "…", "your", "xxx", "<", "changeme", "replace")
SECRETS = ("KEY", "TOKEN", "PASSWORD", "SECRET", "HEADERS")
"""Parts of the names of variables whose values may hold a secret."""


class LocalSettings:
    """The environment, and below it the file `.env` of this folder."""

    def __init__(self, folder: Path) -> None:
        self.findings: list[Finding] = []
        self._folder = folder
        self._file = self._read_file(folder / ".env")
        self.values = {**self._file, **os.environ}

    def get(self, name: str) -> str:
        return (self.values.get(name) or "").strip()

    def secrets(self) -> list[str]:
        """Values that must not be printed, longest first."""
        found = {value for name, value in self.values.items() if value and any(part in name for part in SECRETS)}
        found |= {_password_of(value) for value in self.values.values()}
        return sorted((each.strip() for each in found if len(each.strip()) > 5), key=len, reverse=True)

    def _read_file(self, path: Path) -> dict[str, str | None]:
        try:
            content = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            self.findings.append(good("settings", "There is no file .env here; the environment alone counts."))
            return {}
        except OSError:
            self.findings.append(
                bad("settings", "The file .env cannot be read.", "Look at its permissions: ls -l .env")
            )
            return {}
        text = self._decode(content)
        if text is None:
            return {}
        broken = [each.original.line for each in parse_stream(StringIO(text)) if each.error]
        if broken:
            told = f"Line {broken[0]} of .env is no NAME=value."
            self.findings.append(bad("settings", told, "Write it as NAME=value, without spaces in the name."))
        found = dotenv_values(stream=StringIO(text, newline=None), interpolate=True)
        self._check_names(found)
        if not self.findings:
            self.findings.append(good("settings", f"The file .env is read; it has {_count(len(found), 'variable')}."))
        return found

    def _decode(self, content: bytes) -> str | None:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
            encoding = "UTF-16"
        else:
            try:
                return content.decode("utf-8-sig")
            except UnicodeDecodeError:
                encoding = "CP949"
        told = "The file .env is not in UTF-8, so the server does not start."
        advice = f"Save it as UTF-8, or: iconv -f {encoding} -t UTF-8 .env > new && mv new .env"
        self.findings.append(bad("settings", told, advice))
        return None

    def _check_names(self, found: dict[str, str | None]) -> None:
        for name, right in MISNAMED.items():
            if name in found and right not in found:
                told = f"The file .env has {name}, which the server does not read."
                self.findings.append(bad("settings", told, f"Name it {right}."))
        for name in found:
            if found[name] and os.environ.get(name) not in (None, found[name]):
                told = f"{name} differs between the environment and .env; the environment counts."
                self.findings.append(unsettled("settings", told, f"If that is not what you want: unset {name}"))

    def check_key(self) -> Finding:
        """Whether a server started here has what it needs to ask a model."""
        key, base = self.get("OPENAI_API_KEY"), self.get("OPENAI_BASE_URL") or self.get("LLM_SERVER_URL")
        if self.get("UPSTREAM") == "scripted":
            return good("key", "UPSTREAM=scripted is the demonstration, which needs no key.")
        if base:
            return _check_base(base)
        if not key:
            told = "No model key is set here, so a server started here is a demonstration."
            return unsettled("key", told, "For real replies, put OPENAI_API_KEY=sk-... into the file .env.")
        if any(part in key.lower() for part in PLACEHOLDERS):
            told = "OPENAI_API_KEY is a placeholder, not a key."
        elif not key.isascii() or any(character.isspace() or character in "\"'" for character in key):
            told = "OPENAI_API_KEY has spaces, quotes or letters that no key has."
        elif len(key) < 20:
            told = f"OPENAI_API_KEY has {len(key)} characters, which is too short for a key."
        else:
            return good("key", "OPENAI_API_KEY is set.")
        return bad("key", told, "Copy the whole key from platform.openai.com/api-keys into the file .env.")

    def ask_server(self, found: Iterable[Finding]) -> Iterator[Finding]:
        """What the server's own rules say about the settings, without what `found` has already.

        The server's code runs as another program; nothing is said if it is not there or not installed.
        """
        if not (ROOT / "run.py").exists():
            return
        command, paths = [sys.executable, "-m", "server.serving.check"], {"PYTHONPATH": str(ROOT)}
        try:
            told = subprocess.run(command, cwd=self._folder, env=os.environ | paths, capture_output=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return
        known = " ".join(finding.told for finding in found if finding.status == "failed")
        for line in (told.stderr + told.stdout).decode("utf-8", "replace").splitlines():
            names = re.findall(r"\b[A-Z][A-Z_]{3,}\b", line)
            if not names or names[0] in known:  # Without a name, it is about the file, which is looked at here.
                continue
            if line.startswith("The server cannot start"):
                advice = "Correct it, in the file .env or in the environment; docs/configuration.md has the settings."
                yield bad("settings", line, advice)
            elif line.startswith("The file .env"):
                sentence, _, advice = line.partition("; ")
                yield unsettled("settings", f"{sentence}.", advice[:1].upper() + advice[1:])

    def check_store(self) -> Finding | None:
        """Whether a server started here can open its store; None if there is nothing to say."""
        url = self.get("STORE_URL")
        if not url and not self.get("DATABASE_URL"):
            told = "Conversations are kept in memory, and end with the server."
            return good("store", told, "STORE_URL=sqlite:///chatbot.db in the file .env keeps them.")
        scheme = url.partition(":")[0]
        if url and scheme not in ("memory", "sqlite", "redis", "rediss"):
            return bad("store", "STORE_URL names no store.", "Write memory://, sqlite:///FILE or redis://HOST:PORT.")
        if scheme == "sqlite":
            path = self._folder / url.removeprefix("sqlite:///")
            target = path if path.exists() else path.parent
            if not target.exists():
                return bad(
                    "store", "The folder of the SQLite file does not exist.", "Make it: mkdir -p, then the folder."
                )
            if not os.access(target, os.W_OK):
                return bad("store", "The SQLite file of STORE_URL cannot be written.", "Look at its permissions: ls -l")
        return None


def _check_base(base: str) -> Finding:
    try:
        parts = urlsplit(base)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        return bad("key", "OPENAI_BASE_URL is no address.", "Write it like http://localhost:11434/v1.")
    if parts.path.rstrip("/").endswith("/completions"):
        return bad("key", "OPENAI_BASE_URL names an operation.", "End it before /chat/completions; often with /v1.")
    if not parts.path.strip("/"):
        return unsettled("key", "OPENAI_BASE_URL has no path.", "If questions fail with upstream_not_found, add /v1.")
    return good("key", f"OPENAI_BASE_URL names {parts.hostname}; it may need no key.")


def _password_of(url: str | None) -> str:
    try:
        return urlsplit(url or "").password or ""
    except ValueError:
        return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
