"""Which way imports go, and how long a module and a function may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SERVER = ROOT / "server"

LAYERS = (
    ("app",),
    ("dialects", "web"),
    ("core", "http"),
    ("runs", "access"),
    ("store", "upstream"),
    (
        *("domain", "charges", "errors", "rates", "concurrency", "metrics", "addresses", "environment"),
        *("setting_rules", "settings", "serving"),
    ),
)
"""The units of `server/`, highest first. A module imports its own unit and lower rows."""

ALSO = {
    ("domain", "charges"),
    ("errors", "rates"),
    ("setting_rules", "rates"),
    ("settings", "addresses"),
    ("settings", "environment"),
    ("settings", "setting_rules"),
    ("setting_rules", "addresses"),
    ("serving", "charges"),
    ("serving", "environment"),
    ("serving", "settings"),
}
"""What a unit may import of its own row."""

NEVER = {
    "dialects": ("runs", "access", "store", "upstream", "settings", "serving"),
    "web": ("runs", "store", "upstream", "settings", "serving"),
    "core": ("settings", "serving"),
    "http": ("store", "upstream", "settings", "serving"),
    "runs": ("settings", "serving"),
    "access": ("settings", "serving", "upstream"),
    "store": ("settings", "serving", "addresses", "environment"),
    "upstream": ("settings", "serving", "environment"),
}
"""What a unit does not import although it stands lower. `settings` is read by `app` and by the process alone."""

FILES = sorted(SERVER.rglob("*.py"))
TERMINAL_FILES = sorted((ROOT / "terminal").rglob("*.py"))


def name_of(path: Path) -> str:
    return (
        str(path.relative_to(SERVER if path.is_relative_to(SERVER) else ROOT))
        .removesuffix(".py")
        .removesuffix("/__init__")
    )


def unit_of(module: str) -> str:
    return module.partition("/")[0]


def row_of(unit: str) -> int:
    (row,) = [row for row, units in enumerate(LAYERS) if unit in units]
    return row


def imported(path: Path) -> Iterator[str]:
    """The modules of `server/` that a file imports, such as `runs/live`."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("server."):
                module = name.removeprefix("server.").replace(".", "/")
                is_module = (SERVER / f"{module}.py").exists() or (SERVER / module).is_dir()
                yield module if is_module else module.rpartition("/")[0]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    unit = unit_of(name_of(path))
    for module in imported(path):
        other = unit_of(module)
        if name_of(path) == "__init__" or other == unit or (unit, other) in ALSO:
            continue
        assert row_of(other) > row_of(unit), f"{module} does not stand below {unit}"
        assert other not in NEVER.get(unit, ()), f"{unit} never imports {module}"


def test_http_takes_one_module_of_the_runs() -> None:
    found = {module for path in (SERVER / "http").rglob("*.py") for module in imported(path)}
    assert {module for module in found if unit_of(module) == "runs"} <= {"runs/events"}


@pytest.mark.parametrize("path", sorted((SERVER / "dialects").rglob("*.py")), ids=name_of)
def test_a_dialect_does_not_know_another(path: Path) -> None:
    shared = {"dialects/openai/errors", "dialects/openai/pagination"}
    own = name_of(path) if path.parent == SERVER / "dialects" else str(path.parent.relative_to(SERVER))
    others = {module for module in imported(path) if unit_of(module) == "dialects"} - shared
    assert [module for module in others if not f"{module}/".startswith(f"{own}/")] == []


def functions(node: ast.AST) -> Iterator[tuple[ast.FunctionDef, int]]:
    """Each function below `node`, and its lines less those of the functions that it contains."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            inner = list(functions(child))
            yield child, length_of(child) - sum(length_of(each) for each in child.body if is_function(each))
            yield from inner
        else:
            yield from functions(child)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def length_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    first = node.decorator_list[0].lineno if isinstance(node, ast.FunctionDef) and node.decorator_list else node.lineno
    return node.end_lineno - first + 1


@pytest.mark.parametrize("path", TERMINAL_FILES, ids=name_of)
def test_the_terminal_client_imports_nothing_of_the_server(path: Path) -> None:
    assert "server" not in {name.partition(".")[0] for name in names_imported_by(path)}


def test_the_server_imports_nothing_of_the_terminal_client() -> None:
    found = {name.partition(".")[0] for path in FILES for name in names_imported_by(path)}
    assert "terminal" not in found


def names_imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", [*FILES, *TERMINAL_FILES], ids=name_of)
def test_a_module_is_short_and_so_are_its_functions(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    assert {
        node.name: length for node, length in functions(ast.parse(text)) if length > 40 and node.name != "create_app"
    } == {}
