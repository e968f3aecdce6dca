"""Which names the code may not have: those that say nothing, and those that a better word has replaced."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.store.protocol import Store
from server.upstream.protocol import CompletionStream, Upstream
from tests.support.process import ROOT

SAYING_NOTHING = {"utils", "helpers", "base", "manager", "service", "common"}

OLD_MODULES = {
    *("model", "threads", "writing", "ticker", "held", "followed", "turns", "replay", "listing", "conversations_view"),
    *("wire", "published", "operators", "asked", "made", "shapes", "faults", "paging", "view", "listening", "writers"),
    *("blocking", "packing", "forgetting", "kept", "renamed", "reading", "answers", "connections"),
} - {"threads"}  # It is the assistants' word for a conversation.

OLD_NAMES = {
    # Classes and types.
    *("Author", "Held", "Followed", "Turns", "Limits", "Threads", "Piece", "Reading", "Failure", "ServerError"),
    *("Options", "Begun", "Terms", "PLAIN", "Reply", "Writing", "Standing", "Words", "Ear", "View", "Found", "Placed"),
    *("Writers", "Link", "Kept", "Said", "NOTHING", "RUN_WORDS", "WORDS", "COLLECT_SECONDS"),
    # Functions, methods and fields.
    *("failure_of", "problem_of", "revived", "renamed", "renamed_body", "may_pass", "_told", "standing", "presence"),
    *("is_there", "patience", "preferred_wait", "answer_failures", "packed", "unpacked", "conversation_of", "run_of"),
    *("message_of", "mark_of", "_said", "named", "collected", "attend", "has_company", "wait_on", "catch_up"),
    *("note_silence", "unwritten", "keep_unwritten", "is_out_of_reach", "is_doubtful", "is_reachable", "try_store"),
    *("give_up", "end_at_last", "look_up", "take_place", "give_place_back", "first_place", "halved", "whole_turns"),
    *("fingerprint", "replay_from", "is_moving", "ending", "fresh", "place", "_place", "places", "writer"),
}

OLD_VERBS = {
    *("begin", "start", "append", "finish", "pause", "resume", "note", "collect", "run", "runs", "messages", "place"),
    *("add", "change_message", "clear", "delete", "renew", "record", "records", "open", "models", "health", "cut"),
}

FILES = sorted(path for folder in ("server", "terminal", "tests", "bench") for path in (ROOT / folder).rglob("*.py"))
FILES = [path for path in FILES if "node_modules" not in path.parts]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def defined(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines: classes, functions, parameters, variables, attributes, and what it imports."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(("server", "tests")):
            yield from (alias.asname or alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_has_a_name_that_says_nothing_or_an_old_one(path: Path) -> None:
    parts = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    assert parts & SAYING_NOTHING == set()
    if path.is_relative_to(ROOT / "server"):
        assert parts & OLD_MODULES == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_identifier_is_an_old_one(path: Path) -> None:
    assert set(defined(ast.parse(path.read_text()))) & OLD_NAMES == set()


@pytest.mark.parametrize("protocol", [Store, Upstream, CompletionStream], ids=lambda each: each.__name__)
def test_the_protocols_verbs_carry_their_nouns(protocol: type) -> None:
    assert vars(protocol).keys() & OLD_VERBS == set()


@pytest.mark.parametrize("path", sorted((ROOT / "server").rglob("__init__.py")), ids=name_of)
def test_a_package_file_holds_a_docstring_and_exports(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 40
    body = ast.parse(text).body
    if path != ROOT / "server/store/__init__.py":  # It has `open_store`, which imports one backend.
        assert {type(node) for node in body} <= {ast.Expr, ast.Import, ast.ImportFrom}


FOLDERS = ("", "server", "server/runs", "server/store", "server/upstream", "server/dialects", "server/dialects/openai")
EXAMPLES = (
    "greeting",
    "GREETING",
    "NAME",
    "KeyError",
    "ResponseNotFound",
    "fdatasync",
    "MockTransport",
    "_seconds",
    "_bytes",
)
"""What CONTRIBUTING's examples add, and words of other programs."""

PAGES = ["CONTRIBUTING.md", "docs/architecture.md", "docs/invariants.md", "docs/glossary.md"]
PAGES += sorted(f"docs/decisions/{path.name}" for path in (ROOT / "docs/decisions").glob("*.md"))


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word of the code, of the settings in capitals too."""
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "server").rglob("*.lua")]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "server/dialects").rglob("*.json")]
    texts += [(ROOT / name).read_text(encoding="utf-8") for name in ("gunicorn.conf.py", "Makefile", "openapi.json")]
    found = set(re.findall(r"\w+", "\n".join(texts)))
    return found | {word.upper() for word in found}


@pytest.mark.parametrize("page", PAGES)
def test_the_developers_pages_name_only_what_there_is(page: str, words: set[str]) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in set(re.findall(r"`([A-Za-z_][\w./]*)`", text)):
        if any(example in name for example in EXAMPLES):
            continue
        if "/" in name or name.endswith(".py"):
            beside = [ROOT / folder / name for folder in FOLDERS]
            assert any(path.exists() or path.with_suffix(".py").exists() for path in beside) or any(
                (ROOT / "server").rglob(name)
            ), name
        elif len(name) > 3:
            assert name.rpartition(".")[2] in words, name
