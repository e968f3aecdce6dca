"""README and docs/ say what is true: every setting, every error, and every call in them with its answer."""

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from server import errors
from server.http.errors import status_of
from server.settings import Settings
from tests.support.process import ROOT, serve
from tests.support.replies import ScriptedReplies

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("README*.md")), ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")))
}
"""Each text by its path."""

API = "docs/api.md"
CONTRACTS = [ROOT / "openapi.json", *sorted((ROOT / "server" / "dialects").rglob("*.openapi.json"))]

FAMILIES = {errors.AppError, errors.Refused, errors.RunConflict, errors.Unavailable}
"""Classes that nobody raises; what is below them has codes of its own."""

VARIABLE = re.compile(
    r"(?P<elided>…)"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z|(?<=_at\":)\d{10}\b)"
    r"|(?P<id>[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
"""The parts of a printed answer that differ from run to run."""

PIECE = re.compile(r'id: \d+\n(.*?)data: (\{(?:"type":"CHUNK",)?"content":.*\})', re.DOTALL)
"""An event with a piece of a reply, and nothing else."""


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow")


def section(title: str) -> str:
    """The only section of level 2 with that title in any document."""
    parts = [part for text in DOCUMENTS.values() for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    (found,) = [body for heading, _, body in (part.partition("\n") for part in parts) if heading == title]
    return found


def table(title: str) -> list[list[str]]:
    """The rows of all tables in a section whose first cell is code; so no heads."""
    rows = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def calls(text: str) -> list[tuple[str, str]]:
    """Each call of curl, and the answer that is printed below it."""
    commands = [
        each.partition("\n") for block in blocks("console", text) for each in re.split(r"^\$ ", block, flags=re.M)[1:]
    ]
    found = []
    for command, _, answer in commands:
        while command.endswith("\\"):
            more, _, answer = answer.partition("\n")
            command = f"{command}\n{more}"
        if command.startswith("curl"):
            found.append((command, answer))
    return found


def joined(answer: str) -> str:
    """An answer whose stream, if it is one, has its text in one piece: the next time it may be cut elsewhere."""
    frames: list[str] = []
    for frame in answer.replace("\r\n", "\n").strip().split("\n\n"):
        last, more = PIECE.fullmatch(frames[-1]) if frames else None, PIECE.fullmatch(frame)
        if last and more:
            data = json.loads(last[2])
            data["content"] += json.loads(more[2])["content"]
            frame = frame[: more.start(2)] + json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            frames.pop()
        frames.append(frame)
    return "\n\n".join(frames)


def ids_if_as_printed(answer: str, printed: str, known: dict[str, str]) -> dict[str, str] | None:
    """The ids of `answer` by the printed ones, `known` among them; None if it is not what is printed."""
    pattern, end, new = "", 0, {}
    for part in VARIABLE.finditer(printed):
        pattern, end = pattern + re.escape(printed[end : part.start()]), part.end()
        if part["elided"]:
            pattern += ".*?"
        elif part["time"]:
            pattern += re.sub(r"\d", r"\\d", part[0])
        elif part[0] in known:
            pattern += known[part[0]]
        elif part[0] in new:
            pattern += f"(?P={new[part[0]]})"
        else:
            new[part[0]] = f"id{len(new)}"
            pattern += f"(?P<{new[part[0]]}>[0-9a-f-]+)"
    match = re.fullmatch(pattern + re.escape(printed[end:]), answer, re.DOTALL)
    return None if match is None else known | {theirs: match[name] for theirs, name in new.items()}


@pytest.mark.parametrize("path", [path for path, text in DOCUMENTS.items() if calls(text)])
def test_every_call_answers_what_is_printed_below_it(path: str) -> None:
    """Each document from its first call on, to a demonstration that was asked nothing before."""
    assert shutil.which("curl"), "curl is needed to try the calls: apt-get install curl"
    assert all(block.startswith("$ ") for block in blocks("console", DOCUMENTS[path]))
    ids: dict[str, str] = {}
    with serve(UPSTREAM="scripted") as served:
        for command, printed in calls(DOCUMENTS[path]):
            for theirs, ours in {**ids, "localhost:10000": f"localhost:{served.port}"}.items():
                command = command.replace(theirs, ours)
            ran = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30)
            assert ran.returncode == 0, ran.stderr.decode()
            answer = ran.stdout.decode().replace(f"localhost:{served.port}", "localhost:10000")
            found = ids_if_as_printed(joined(answer), joined(printed), ids)
            assert found is not None, f"{command}\n\nanswers\n\n{answer}\n\nand not\n\n{printed}"
            ids = found
        asked = {
            (method, re.sub(r"<(\w+)>", r"{\1}", route))
            for method, route in re.findall(r'"method":"(\w+)","route":"([^"]+)"', served.log())
        }
    if path == API:
        of = {document.name.partition(".")[0]: operations(document) for document in CONTRACTS}
        assert of["openapi"] | of["chat"] | of["sessions"] <= asked
        kinds = {path.split("/")[3] for _, path in of["assistants"]}
        assert {path.split("/")[3] for _, path in of["assistants"] & asked} == kinds


def operations(document: Path) -> set[tuple[str, str]]:
    """Method and path of each operation."""
    paths = json.loads(document.read_text(encoding="utf-8"))["paths"]
    methods = {"get", "post", "put", "patch", "delete"}
    return {(method.upper(), path) for path, item in paths.items() for method in item if method in methods}


@pytest.mark.parametrize("document", CONTRACTS, ids=lambda document: document.name)
def test_every_operation_stands_in_a_table_of_the_page_about_the_apis(document: Path) -> None:
    cells = {cell for line in DOCUMENTS[API].splitlines() if line.startswith("| `") for cell in line.split("`")[1::2]}
    assert {f"{method} {path}" for method, path in operations(document)} - cells == set()


def test_the_answer_to_a_client_that_does_not_wait_is_the_printed_one(
    client: FlaskClient, replies: ScriptedReplies
) -> None:
    asked = {"client_name": "ada", "input": "slow"}
    answer = client.post("/query", json=asked, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    (printed,) = [each for text in DOCUMENTS.values() for each in blocks("json", text) if '"running"' in each]
    run_id = re.compile(r"run_[0-9a-f]{32}")
    assert json.loads(run_id.sub("<run>", printed)) == json.loads(run_id.sub("<run>", answer.text))
    replies.end("slow", "at last")
    assert client.post("/query", json=asked).json == {"response": "at last"}


def test_every_setting_stands_in_the_table_once_with_its_default() -> None:
    rows = table("Settings")
    assert sorted(row[0] for row in rows) == sorted(f"`{each.name.upper()}`" for each in fields(Settings))
    defaults = {f"`{each.name.upper()}`": each.default for each in fields(Settings)}
    for name, default, meaning in rows:
        kept = defaults[name]
        text = f"{kept:.0f}" if isinstance(kept, float) else str(kept)
        assert (name, default) == (name, "empty" if kept in ("", None, ()) else f"`{text}`")
        assert meaning.endswith(".")


def test_every_error_stands_in_the_table_with_its_status() -> None:
    def below(kind: type[errors.AppError]) -> set[type[errors.AppError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    raised = below(errors.AppError) - FAMILIES
    rows = table("Errors")
    assert sorted((row[0], row[1]) for row in rows) == sorted((f"`{k.code}`", str(status_of(k()))) for k in raised)


def test_readme_stays_short() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= 180


def test_every_make_command_is_in_the_makefile() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for text in DOCUMENTS.values():
        assert set(re.findall(r"`make ([\w-]+)", text)) <= set(targets)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading_in_it(path: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(DOCUMENTS[path]))
    broken = [link for link in links if not re.match(r"[a-z]+:", link) and not leads_somewhere(ROOT / path, link)]
    assert broken == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether there is what a relative link of `page` names: a file or a folder, and the heading after its `#`."""
    name, _, anchor = link.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not anchor or anchor in anchors(file.read_text(encoding="utf-8")))


def anchors(text: str) -> list[str]:
    """What GitHub names the headings: lower case, without punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_example_of_a_dotenv_file_names_only_settings_and_the_key_first() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^# ([A-Z_]+)=", example, re.MULTILINE)
    assert names[0] == "OPENAI_API_KEY"
    assert set(names) <= {each.name.upper() for each in fields(Settings)}
    assert [line for line in example.splitlines() if line and not line.startswith("#")] == []


def test_nothing_that_is_pasted_has_a_key_that_everybody_knows() -> None:
    names = (".env.example", "compose.yaml", "render.yaml", "Procfile", "Dockerfile", "Makefile", "CONTRIBUTING.md")
    files = [ROOT / name for name in names] + [each for each in (ROOT / "examples").iterdir() if each.is_file()]
    texts = [*DOCUMENTS.values(), *(each.read_text(encoding="utf-8") for each in files)]
    values = [value for text in texts for value in re.findall(r"(?<![\^\w])[A-Z_]*_KEY=([^\s`|]*)", text)]
    assert len(values) > 5
    assert [value for value in values if not re.fullmatch(r'(sk-|ck_)?\.\.\.[")]?|"?\$.*|', value)] == []


def test_a_request_through_the_documented_nginx_is_answered_with_the_documented_settings() -> None:
    text = section("nginx")
    (location,), (settings,) = blocks("nginx", text), blocks("sh", text)
    variables = {"$http_host": "bot.example.com", "$scheme": "https", "$proxy_add_x_forwarded_for": "192.0.2.1"}
    headers = dict(re.findall(r"proxy_set_header ([\w-]+) (\S+);", location))
    sent = {name.replace("-", "_"): variables[value] for name, value in headers.items() if value in variables}
    assert len(sent) == 4
    chosen = dict(line.split("=", 1) for line in settings.splitlines())
    with serve(UPSTREAM="scripted", ADMIN_KEY="an administrator's long key", **chosen) as served:
        assert served.ask("GET", "/models", **sent)[0] == 200
        assert served.ask("GET", "/openapi.json", **sent)[1]["servers"] == [{"url": "https://bot.example.com"}]


def test_a_key_by_the_documented_commands_has_the_documented_limits(tmp_path: Path) -> None:
    (commands,) = blocks("sh", DOCUMENTS["docs/access.md"])
    (tmp_path / ".env").write_text("# The administrator's:\nADMIN_KEY=0123456789abcdef\nPORT=10000\n")
    with serve(UPSTREAM="scripted", ADMIN_KEY="0123456789abcdef") as served:
        command = commands.replace("127.0.0.1:10000", f"127.0.0.1:{served.port}")
        ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
        key = json.loads(ran.stdout)
        assert (key["client_name"], key["rate_limit"], key["daily_token_budget"]) == ("kim", "60/minute", 200_000)
        assert "expires_at" in key
        assert served.ask("GET", "/caller", Authorization=f"Bearer {key['key']}")[1]["client_name"] == "kim"


def test_a_backup_by_the_documented_command_has_what_was_said(tmp_path: Path) -> None:
    (commands,) = blocks("sh", section("SQLite"))
    (command,) = [line for line in commands.splitlines() if line.startswith("python3 ")]
    with serve(UPSTREAM="scripted", STORE_URL=f"sqlite:///{tmp_path}/chatbot.db") as served:
        assert served.query("ada", "My cat is called Grace.")[0] == 200
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    with serve(UPSTREAM="scripted", STORE_URL=f"sqlite:///{tmp_path}/backup.db") as served:
        assert served.history("ada")[0] == "My cat is called Grace."
