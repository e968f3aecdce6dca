"""Which way imports go."""

import ast
from pathlib import Path

import pytest

SERVER = Path(__file__).parent.parent / "server"

MAY_IMPORT = {
    "model": set(),
    "errors": set(),
    "addresses": set(),
    "environment": set(),
    "settings": {"addresses", "environment"},
    "store": {"model", "errors"},
    "upstream": {"model", "errors"},
    "replay": {"model"},
    "transcripts": {"replay", "store", "model"},
    "live": {"store", "upstream", "model", "errors"},
    "followed": {"live", "store", "model", "errors"},
    "held": {"followed", "live", "store", "model", "errors"},
    "threads": set(),
    "writing": {"held", "live", "threads", "transcripts", "replay", "store", "upstream", "model", "errors"},
    "turns": {"live", "model"},
    "ticker": {"errors"},
    "runs": {"writing", "held", "followed", "turns", "ticker", "live", "store", "upstream", "model", "errors"},
    "health": {"upstream", "errors"},
    "listing": {"model"},
    "conversations": {"runs", "live", "health", "listing", "store", "upstream", "model", "errors"},
    "wire": {"live", "addresses", "model", "errors"},
    "web": set(),
    # What knows the HTTP server, and nothing of what is served.
    "serving": set(),
    # Never a store or an upstream, and never each other.
    "dialects": {"wire", "conversations", "model", "errors"},
    "app": {"dialects", "wire", "conversations", "runs", "writing", "store", "upstream", "settings", "addresses"},
    "__init__": set(),
}

FILES = sorted(SERVER.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SERVER).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, in full."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("server"):
            modules |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names if name.name.startswith("server.")}
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVER)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    rooms = {module.split(".")[1] for module in imported(path)}
    assert rooms <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize(
    "path", sorted((SERVER / "dialects").rglob("*.py")), ids=lambda path: str(path.relative_to(SERVER))
)
def test_a_dialect_does_not_know_another(path: Path) -> None:
    own = f"server.dialects.{path.relative_to(SERVER / 'dialects').parts[0]}."  # of one that is a package
    others = [module for module in imported(path) if module.startswith("server.dialects")]
    assert [module for module in others if not f"{module}.".startswith(own)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVER)))
def test_a_module_is_short_and_so_are_its_functions(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        # The views of a dialect stand inside its one function, which is their list.
        if isinstance(node, ast.FunctionDef) and node.name not in ("blueprint", "create_app"):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 40, node.name
