"""`python -m terminal COMMAND`: reads the arguments, and turns what happens into an exit code.

0: done. 1: the reply failed, or some of a batch did. 2: the server is down or does not accept the key, or the command
cannot be done as given.
130: ended by Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from terminal.batch import batch
from terminal.chat import chat
from terminal.client import DEFAULT_SERVER, KEY_CODES, Client, Refused, ServerDown, UsageError
from terminal.commands import INTERRUPTED, ask, export, history, import_, models
from terminal.doctor import doctor
from terminal.inert import make_inert_line

CLIENT_NAME = "terminal"
"""The conversation of who names none; with a key, one that it opens."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, make_inert_line(f"{message[:1].upper()}{message[1:]}; {self.prog} --help tells more.") + "\n")


def make_parser() -> Parser:
    shared = Parser(add_help=False)
    told = f"address of the server; CONVERSATION_SERVER, or PORT of this machine, or {DEFAULT_SERVER} if left out"
    # Without a default here, so that one before the command is not overridden.
    shared.add_argument("--server", metavar="URL", default=argparse.SUPPRESS, help=told)
    warned = "key of a protected server; others on this machine may see it, so set CONVERSATION_KEY rather"
    shared.add_argument("--key", metavar="KEY", default=argparse.SUPPRESS, help=warned)
    parser = Parser(prog="python -m terminal", description="Talk with a conversation server.", parents=[shared])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, function: Callable[[Client, argparse.Namespace], int], told: str, default: str | None) -> Parser:
        command = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.", parents=[shared])
        command.set_defaults(function=function, default_name=default)
        if name not in ("doctor", "batch"):
            shown_name = f"name of the conversation; {default}" if default else "name of the conversation"
            command.add_argument("-c", "--client-name", metavar="NAME", help=shown_name)
        return command

    add("chat", chat, "talk, with the conversation kept by the server", CLIENT_NAME)
    asking = add("ask", ask, "ask one question; without a name, outside of any conversation", None)
    asking.add_argument("question", nargs="*", help="the question; what is piped in comes below it")
    asking.add_argument("-m", "--model", help="model for this question alone")
    asking.add_argument("-s", "--system", metavar="TEXT", help="system prompt for this question alone")
    many = add("batch", batch, "ask every question of a file", None)
    many.add_argument("file", metavar="FILE", help="one question a line, or JSON Lines with input, client_name, …")
    many.add_argument("--parallel", type=_positive, default=8, metavar="N", help="questions at the same time; 8")
    many.add_argument("--out", metavar="FILE", help="where results go; FILE.results.jsonl")
    shown = add("history", history, "print a conversation", CLIENT_NAME)
    shown.add_argument("--limit", type=_positive, metavar="N", help="only the newest messages")
    add("models", models, "list the models", None)
    taken = add("export", export, "take a conversation along, as a file", CLIENT_NAME)
    taken.add_argument("--format", choices=("json", "jsonl", "markdown"), default="json", help="json")
    taken.add_argument("--out", metavar="FILE", help="the file; - for the output")
    brought = add("import", import_, "bring the conversations of a file in", None)
    brought.add_argument(
        "file", metavar="FILE", help="an export, OpenAI-style messages, or ChatGPT's conversations.json"
    )
    brought.add_argument("--copy", action="store_true", help="import under a free name if the name exists")
    add("doctor", doctor, "find out what is wrong and what to do", None)
    return parser


def main(arguments: list[str] | None = None) -> int:
    parsed = make_parser().parse_args(arguments)
    server = getattr(parsed, "server", "") or os.environ.get("CONVERSATION_SERVER") or _local_server()
    key = getattr(parsed, "key", "") or os.environ.get("CONVERSATION_KEY", "")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        return _run(parsed.function, server, key, parsed)
    except (UsageError, ServerDown) as problem:
        return _tell(problem, 2)
    except Refused as problem:
        return _tell(problem, 2 if problem.code in KEY_CODES else 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read the output has left; nothing may be written at the interpreter's end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _local_server() -> str:
    """Where a server that is started with this environment listens."""
    port = os.environ.get("PORT", "").strip()
    return f"http://127.0.0.1:{port}" if port else DEFAULT_SERVER


def _run(function: Any, server: str, key: str, parsed: argparse.Namespace) -> int:
    client = Client(server, key)
    try:
        if parsed.default_name and not parsed.client_name:
            parsed.client_name = client.own_name(parsed.default_name)
        code: int = function(client, parsed)
        sys.stdout.flush()
        return code
    finally:
        client.close()


def _tell(problem: Exception, code: int) -> int:
    with suppress(BrokenPipeError):
        print(make_inert_line(str(problem)), file=sys.stderr)
    return code


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
