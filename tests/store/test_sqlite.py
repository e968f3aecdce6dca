"""The SQLite store: the shared store tests, and the behaviour of its file."""

import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from server.charges import Charge
from server.domain import Message, Run, RunError, Usage, excerpt_of
from server.errors import ConversationBusy, RequestIdConflict, StoreUnavailable
from server.store import open_store
from server.store.limits import BUDGET_SECONDS, MAX_RATE_SECONDS, RateLimit, RunLimits
from server.store.protocol import REQUEST_ID_SECONDS, CreateOptions, Store
from server.store.sqlite import (
    SqliteStore,
    compaction,
    conversations,
    database,
    history,
    runs,
    schema,
    sweep,
    transaction,
    usage,
)
from server.store.sqlite import store as store_module
from server.store.sqlite.history import History
from tests.store.contract import LEASE_SECONDS, MAX_RECORDS, SharedStoreTests, asked, contents, finished, there
from tests.support.clock import Clock

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chatbot.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    store = SqliteStore(str(path), LEASE_SECONDS, clock, max_records=MAX_RECORDS)
    yield store
    store.close()


@pytest.fixture
def other(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    """The store of another process."""
    store = SqliteStore(str(path), LEASE_SECONDS, clock, max_records=MAX_RECORDS)
    yield store
    store.close()


class TestSqliteStore(SharedStoreTests):
    @pytest.fixture(params=["its lease passed", "it is gone"])
    def abandon(self, request: pytest.FixtureRequest, clock: Clock) -> Callable[[Store], None]:
        def let_its_lease_pass(worker: Store) -> None:
            clock.now += LEASE_SECONDS + 1

        return let_its_lease_pass if request.param == "its lease passed" else lambda worker: worker.close()


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The rows of each table that is not empty."""
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        kept = {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    del kept["sqlite_sequence"]
    return {name: found for name, found in kept.items() if found}


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Lock the file with a transaction, as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("ROLLBACK")


def other_files(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each != path)


def open_files(path: Path) -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(each.readlink()))
    return [name for name in found if name.startswith(str(path))]


class TestFile:
    def test_an_empty_file_becomes_a_store(self, path: Path) -> None:
        path.touch()
        SqliteStore(str(path), LEASE_SECONDS)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    @pytest.mark.parametrize("version", range(len(schema.MIGRATIONS) + 1))
    def test_a_file_of_any_version_is_brought_to_the_newest(self, path: Path, version: int) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for statement in (each for statements in schema.MIGRATIONS[:version] for each in statements):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {version}")
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID if version else 0}")
        store = SqliteStore(str(path), LEASE_SECONDS)
        finished(store, asked(store).run)
        assert contents(store) == ["why?", "re: why?"]
        store.close()
        assert gives_room_back(path)
        assert other_files(path) == []

    def test_a_file_with_the_names_before_the_glossary_keeps_its_data(self, path: Path, clock: Clock) -> None:
        ended = Run("why?", "id", created=1.0, id="run_1", conversation="ada", status="completed", ended=clock.now)
        failed = Run("how?", created=2.0, id="run_3", conversation="ada").ended_as(
            "failed", 2.5, error=RunError("upstream_failed", 'It failed: "안녕".')
        )
        running = Run("what?", created=3.0, id="run_2", conversation="ada", status="running")
        first = 1 << 32

        def dump_with_old_names(run: Run) -> bytes:
            fields = orjson.loads(run.dump())
            return orjson.dumps({**fields, "failure": fields.pop("error"), "collected": fields.pop("delivered")})

        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for statement in (each for statements in schema.MIGRATIONS[:4] for each in statements):
                db.execute(statement)
            db.execute("PRAGMA user_version = 4")
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            db.execute("INSERT INTO conversations (name, model, history) VALUES ('ada', 'm1', 7)")
            for row_key, message in enumerate(replace(ended, text="because").history_messages(), first):
                values = row_key, message.id, message.run_id, message.timestamp, message.fragment
                db.execute(
                    "INSERT INTO messages (place, id, run_id, timestamp, fragment) VALUES (?, ?, ?, ?, ?)", values
                )
            for row_key, run, reply in (
                (first, ended, first + 1),
                (first + 1, failed, None),
                (first + 2, running, None),
            ):
                values = row_key, run.id, run.status, 0, dump_with_old_names(run), reply
                db.execute(
                    "INSERT INTO runs (place, id, status, collected, packed, reply) VALUES (?, ?, ?, ?, ?, ?)", values
                )
            values = first + 2, "another", clock.now + LEASE_SECONDS, "running", b"be"
            db.execute("INSERT INTO open_runs (place, writer, lease, status, text) VALUES (?, ?, ?, ?, ?)", values)
            db.execute(
                "INSERT INTO request_ids (conversation, request_id, run, begun) VALUES (1, 'id', ?, ?)",
                (first, clock.now),
            )
            db.execute("INSERT INTO news (writer, run_id) VALUES ('another', 'run_2')")
        store = SqliteStore(str(path), LEASE_SECONDS, clock)
        conversation = store.get_conversation("ada")
        assert conversation is not None
        assert (conversation.model, conversation.message_count, conversation.history_id) == ("m1", 2, "7")
        assert contents(store) == ["why?", "because"]
        assert [(run.status, run.text) for run in store.list_runs("ada", None, 9)] == [
            ("running", "be"),
            ("failed", ""),
            ("completed", "because"),
        ]
        assert store.get_run("run_3") == failed
        assert asked(store, request_id="id").run.text == "because"
        assert rows(path)["notifications"] == [(1, "another", "run_2")]
        clock.now += LEASE_SECONDS + 1
        assert asked(store, "next").run.status == "running"
        assert store.get_run("run_2").status == "interrupted"
        store.close()

    def test_a_file_from_before_the_lists_has_what_they_need(self, path: Path, clock: Clock) -> None:
        question = 'What is\n\t  it?  "' + "한" * 200
        turn = Run(question, created=5.0, id="run_1", conversation="ada").ended_as("completed", 6.5, text="It is.")
        failed = Run("how?", created=7.5, id="run_2", conversation="eve").ended_as("failed", 8.5)
        later = Run("really?", created=9.5, id="run_3", conversation="eve", status="running")
        answer = Run("", created=4.5, id="run_4", conversation="bob").ended_as("completed", 5.5, text="Hi.")
        added = Message.of("assistant", "hello", None, 1.0), Message.of("user", "hi", None, 2.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for statement in (each for statements in schema.MIGRATIONS[:5] for each in statements):
                db.execute(statement)
            db.execute("PRAGMA user_version = 5")
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            rows_before = [
                ("ada", None, turn.history_messages(), [turn]),
                ("eve", None, (), [failed, later]),
                ("bob", None, (*added, *answer.history_messages()), [answer]),
                ("new", None, (), []),
                ("chat_1", 60.0, turn.history_messages(), []),
                ("chat_named", None, (), []),
                ("session", 60.0, (), []),
            ]
            for key, (name, seconds, messages, runs_before) in enumerate(rows_before, 1):
                values = key, name, seconds, None if seconds is None else clock.now + seconds, 3.5
                db.execute(
                    "INSERT INTO conversations (id, name, seconds, expires, touched) VALUES (?, ?, ?, ?, ?)", values
                )
                History(db, key).add(0, messages)
                for row_key, run in enumerate(runs_before, key << 32):
                    values = row_key, run.id, run.status, 0, run.dump()
                    db.execute(
                        "INSERT INTO runs (row_key, id, status, delivered, run_json) VALUES (?, ?, ?, ?, ?)", values
                    )
        store = SqliteStore(str(path), LEASE_SECONDS, clock)
        listed = [each.conversation for each in store.list_conversations(None, 10)]
        assert [(each.name, each.touched) for each in listed] == [
            ("eve", 9.5),
            ("ada", 6.5),
            ("bob", 5.5),
            ("session", 3.5),
            ("new", 3.5),
            ("chat_named", 3.5),
        ]
        excerpts = {each.name: each.excerpt for each in listed}
        assert (excerpts["ada"], excerpts["bob"], excerpts["eve"]) == (excerpt_of(question), "hi", "how?")
        assert (excerpts["new"], listed[0].settings) == ("", {})
        assert there(store, "chat_1").excerpt == excerpt_of(question)
        assert list(store.list_usage(None, "1970-01-01", "2100-01-01")) == []
        finished(store, asked(store, name="new").run)
        assert [each.conversation.name for each in store.list_conversations(None, 1)] == ["new"]
        assert [each.newest_status for each in store.list_conversations(None, 3)] == [
            "completed",
            "running",
            "completed",
        ]
        store.close()

    def test_what_was_kept_is_there_for_the_next_server(self, path: Path, clock: Clock) -> None:
        for n in range(3):
            store = SqliteStore(str(path), LEASE_SECONDS, clock)
            finished(store, asked(store, str(n)).run)
            store.close()
        store = SqliteStore(str(path), LEASE_SECONDS, clock)
        assert contents(store) == ["0", "re: 0", "1", "re: 1", "2", "re: 2"]
        store.close()

    def test_many_servers_can_be_started_on_a_new_file_at_once(self, path: Path) -> None:
        with ThreadPoolExecutor(8) as threads:
            stores = list(threads.map(lambda _: SqliteStore(str(path), LEASE_SECONDS), range(8)))
        assert asked(stores[0]).is_new
        for store in stores:
            store.close()

    def test_a_url_names_a_file_from_here_or_from_the_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        here = open_store("sqlite:///chatbot ?%.db", max_conversations=1, max_records=1, lease_seconds=LEASE_SECONDS)
        monkeypatch.chdir("/")
        finished(here, asked(here).run)
        assert (tmp_path / "chatbot ?%.db").exists()
        from_the_root = open_store(
            f"sqlite:///{tmp_path}/chatbot ?%.db", max_conversations=1, max_records=1, lease_seconds=LEASE_SECONDS
        )
        assert contents(from_the_root) == ["why?", "re: why?"]
        here.close()
        from_the_root.close()

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:chatbot.db", "sqlite:///:memory:"])
    def test_a_url_without_a_file_stops_the_start(self, url: str) -> None:
        with pytest.raises(ValueError, match="STORE_URL: say sqlite:///FILE"):
            open_store(url, max_conversations=1, max_records=1, lease_seconds=LEASE_SECONDS)

    def test_a_new_store_holds_nothing(self, path: Path) -> None:
        before = threading.active_count()
        SqliteStore(str(path), LEASE_SECONDS)
        assert open_files(path) == []
        assert other_files(path) == []
        assert threading.active_count() == before

    def test_a_closed_store_holds_nothing_and_leaves_one_file(self, store: SqliteStore, path: Path) -> None:
        finished(store, asked(store).run)
        contents(store)
        store.listen([], 0.0)
        assert len(open_files(path)) > 3
        store.close()
        store.close()
        gc.collect()
        assert open_files(path) == []
        assert other_files(path) == []
        assert len(rows(path)["messages"]) == 2

    @pytest.mark.parametrize("how", ["backup", "vacuum"])
    def test_a_copy_of_a_file_in_use_is_a_whole_store(
        self, store: SqliteStore, path: Path, tmp_path: Path, clock: Clock, how: str
    ) -> None:
        stopped = threading.Event()

        def talk(name: str) -> None:
            while not stopped.is_set():
                finished(store, asked(store, name=name).run, delivered=True)

        copy = tmp_path / "copy.db"
        finished(store, asked(store, name="eve").run, delivered=True)
        with ThreadPoolExecutor(2) as threads:
            talks = [threads.submit(talk, name) for name in ("ada", "eve")]
            with closing(sqlite3.connect(path)) as db:
                if how == "backup":
                    with closing(sqlite3.connect(copy)) as target:
                        db.backup(target)
                else:
                    db.execute("VACUUM INTO ?", (str(copy),))
            stopped.set()
            for each in talks:
                each.result()
        restored = SqliteStore(str(copy), LEASE_SECONDS, clock)
        assert contents(restored, "eve")[:2] == ["why?", "re: why?"]
        for name in ("ada", "eve"):
            assert contents(restored, name) == ["why?", "re: why?"] * (len(contents(restored, name)) // 2)
        restored.close()


def gives_room_back(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def make_older(path: Path) -> None:
    """Turn a store's file into one that cannot free pages."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    assert not gives_room_back(path)


class TestRoom:
    @pytest.mark.parametrize("how", ["deleted", "expired"])
    def test_a_sweep_gives_back_the_room_of_what_is_gone(
        self, store: SqliteStore, path: Path, clock: Clock, how: str
    ) -> None:
        finished(store, asked(store).run)
        store.sweep()
        before = path.stat().st_size
        for n in range(40):
            store.create_conversation(f"made {n}", 60.0, {})
            finished(store, asked(store, name=f"made {n}").run, text="x" * 50_000)
        store.sweep()
        assert path.stat().st_size > before + 40 * 50_000
        clock.now += 61
        for n in range(40):
            if how == "deleted":
                store.delete_conversation(f"made {n}")
        assert store.sweep() is False
        assert path.stat().st_size < before + 50_000
        assert contents(store) == ["why?", "re: why?"]

    def test_a_reply_is_stored_once(self, store: SqliteStore, path: Path) -> None:
        finished(store, asked(store).run)
        store.sweep()
        before = path.stat().st_size
        finished(store, asked(store, "more").run, text="word" * 250_000)
        store.sweep()
        assert 950_000 < path.stat().st_size - before < 1_050_000

    def test_runs_that_were_kept_with_their_text_have_it(self, store: SqliteStore, path: Path) -> None:
        runs = [finished(store, asked(store, str(n)).run) for n in range(3)]
        with closing(sqlite3.connect(path)) as db:
            for run in runs:
                db.execute("UPDATE runs SET run_json = ?, reply_row_key = NULL WHERE id = ?", (run.dump(), run.id))
            db.commit()
        store.delete_message("ada", runs[0].reply_id)
        store.mark_delivered("ada", runs[1].id)
        assert [store.get_run(run.id).text for run in runs] == ["re: 0", "re: 1", "re: 2"]

    def test_a_file_from_before_is_rewritten_once_also_where_many_servers_start_at_once(self, path: Path) -> None:
        store = SqliteStore(str(path), LEASE_SECONDS)
        finished(store, asked(store).run, text="x" * 3_000_000)
        store.close()
        make_older(path)
        with ThreadPoolExecutor(4) as threads:
            stores = list(threads.map(lambda _: SqliteStore(str(path), LEASE_SECONDS), range(4)))
        assert gives_room_back(path)
        assert [len(contents(each)) for each in stores] == [2, 2, 2, 2]
        for each in stores:
            each.close()
        assert other_files(path) == []

    def test_a_file_that_is_in_use_is_rewritten(self, store: SqliteStore, path: Path, clock: Clock) -> None:
        make_older(path)
        run = asked(store).run
        other = SqliteStore(str(path), LEASE_SECONDS, clock)
        assert gives_room_back(path)
        finished(store, run)
        assert contents(other) == ["why?", "re: why?"]
        other.close()

    @pytest.mark.parametrize("lacks", ["room", "time", "the file"])
    def test_a_file_that_cannot_be_rewritten_is_used_as_it_is_and_the_log_tells(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lacks: str
    ) -> None:
        schema.prepare(path)
        make_older(path)
        if lacks == "room":
            monkeypatch.setattr(compaction.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
        elif lacks == "time":
            monkeypatch.setattr(compaction, "MAX_REWRITE_BYTES", 10)
        else:
            path.with_name(f"{path.name}-rewriting").mkdir()
        store = SqliteStore(str(path), LEASE_SECONDS)
        (record,) = caplog.records
        assert "VACUUM" in record.getMessage()
        finished(store, asked(store).run)
        store.delete_conversation("ada")
        assert store.sweep() is False
        store.close()

    def test_a_sweep_forgets_thousands_at_once(self, store: SqliteStore, path: Path, clock: Clock) -> None:
        def make(seen: transaction.Transaction) -> None:
            for n in range(5000):
                conversations.add_conversation(seen, f"made {n}", 60.0)
            seen.db.executemany(transaction.ADD_REQUEST_ID, [(n % 50, str(n), n, clock.now) for n in range(20_000)])

        store._write(make)
        clock.now += REQUEST_ID_SECONDS + 1
        assert store.sweep(60.0) is False
        assert rows(path) == {}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drop the rights of root, if the tests have them."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE songs (title)")


def no_database(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)


def damaged(path: Path) -> None:
    schema.prepare(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


def read_only(path: Path) -> None:
    schema.prepare(path)
    path.chmod(0o444)


def in_a_read_only_folder(path: Path) -> None:
    schema.prepare(path)
    path.chmod(0o666)
    path.parent.chmod(0o555)


class TestUnusableFile:
    @pytest.fixture
    def path(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o777)
            yield Path(folder) / "chatbot.db"
            Path(folder).chmod(0o777)

    @pytest.mark.parametrize(
        ("spoil", "sentence"),
        [
            pytest.param(newer, schema.NEWER, id="newer"),
            pytest.param(foreign, schema.FOREIGN, id="foreign"),
            pytest.param(no_database, schema.REMEDIES["SQLITE_NOTADB"], id="no database"),
            pytest.param(damaged, schema.REMEDIES["SQLITE_CORRUPT"], id="damaged"),
            pytest.param(read_only, schema.REMEDIES["SQLITE_READONLY"], id="read-only"),
            pytest.param(in_a_read_only_folder, schema.REMEDIES["SQLITE_READONLY"], id="in a read-only folder"),
            pytest.param(lambda path: path.parent.chmod(0o555), schema.REMEDIES["SQLITE_CANTOPEN"], id="not made"),
            pytest.param(lambda path: path.parent.rmdir(), schema.REMEDIES["SQLITE_CANTOPEN"], id="without a folder"),
            pytest.param(lambda path: path.mkdir(), schema.REMEDIES["SQLITE_CANTOPEN"], id="a folder"),
        ],
    )
    def test_it_stops_the_start_and_says_what_to_do(
        self, path: Path, spoil: Callable[[Path], object], sentence: str
    ) -> None:
        spoil(path)
        before = path.read_bytes() if path.is_file() else None
        with as_nobody(), pytest.raises(ValueError, match="STORE_URL: ") as stopped:
            SqliteStore(str(path), LEASE_SECONDS)
        path.parent.mkdir(exist_ok=True)
        assert str(stopped.value) == f"STORE_URL: {sentence}."
        assert (path.read_bytes() if path.is_file() else None) == before


class TestFailingFile:
    """Failures while the server runs."""

    @pytest.fixture(autouse=True)
    def hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert database.BUSY_SECONDS < 2
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)

    def fails(self, store: Store, caplog: pytest.LogCaptureFixture, remedy: str) -> None:
        caplog.clear()
        with pytest.raises(StoreUnavailable) as failed:
            store.update_conversation("ada", {"model": "m1"})
        assert str(failed.value) == StoreUnavailable.sentence
        (record,) = caplog.records
        assert record.name == "server.store"
        assert remedy in record.getMessage()
        with pytest.raises(StoreUnavailable):
            store.ping()

    def works(self, store: Store) -> None:
        store.ping()
        count = len(contents(store))
        finished(store, asked(store).run, delivered=True)
        assert len(contents(store)) == count + 2

    def test_a_locked_file_fails_and_works_again(
        self, store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.works(store)
        with locked(path):
            self.fails(store, caplog, "find the program that has it open")
        self.works(store)

    def test_a_locked_file_can_be_read(self, store: SqliteStore, path: Path) -> None:
        run, queued = asked(store).run, asked(store, "queued").run
        with locked(path):
            assert store.get_run(run.id) == run
            assert contents(store) == []
            assert store.start_run("ada", queued.id) is None
            assert list(store.listen([run.id], 0.0)) == [run.id]

    @pytest.mark.parametrize("is_replaced", [False, True])
    def test_a_file_that_is_gone_fails_and_works_again(
        self, store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture, is_replaced: bool
    ) -> None:
        self.works(store)
        elsewhere = path.with_name("elsewhere.db")
        path.rename(elsewhere)
        if is_replaced:
            path.touch()
        self.fails(store, caplog, schema.OLDER if is_replaced else schema.GONE)
        with pytest.raises(StoreUnavailable):
            store.get_conversation("ada")
        with pytest.raises(StoreUnavailable):
            store.listen([], 0.0)
        elsewhere.replace(path)
        self.works(store)
        assert list(store.listen([], 0.0)) == []

    def test_another_good_file_in_its_place_is_used(self, store: SqliteStore, path: Path, tmp_path: Path) -> None:
        self.works(store)
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(path)) as db:
            db.execute("VACUUM INTO ?", (str(copy),))
        self.works(store)
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            each.unlink()
        copy.replace(path)
        assert len(contents(store)) == 2
        self.works(store)
        assert len(rows(path)["messages"]) == 4

    def test_a_full_file_fails_and_keeps_what_it_has(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(
            store._writer._connection, "_settings", (*database.WRITE_SETTINGS, "PRAGMA max_page_count = 40")
        )
        kept: list[str] = []
        with pytest.raises(StoreUnavailable):
            while True:
                finished(store, asked(store, str(len(kept))).run, delivered=True, text="x" * 3000)
                kept += [str(len(kept)), "x" * 3000]
        assert "the disk is full; make room on it" in caplog.text
        assert kept
        assert contents(store) == kept

    def test_a_full_disk_fails_and_works_again_when_there_is_room(self, path: Path) -> None:
        """A limit on file size, which fails in the middle of a write, as a full disk does."""
        script = """
import resource, sys
from server.errors import StoreUnavailable
from server.store.sqlite import SqliteStore
from tests.store.contract import asked, contents, finished
store = SqliteStore(sys.argv[1], 30.0)
asked(store, name="eve")
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
turns = 0
try:
    while True:
        finished(store, asked(store).run, delivered=True)
        turns += 1
except StoreUnavailable:
    assert len(contents(store)) // 2 in (turns, turns + 1)
try:
    while True:
        store.ping()
except StoreUnavailable:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.ping()
finished(store, asked(store, "more").run)
assert contents(store)[-2:] == ["more", "re: more"]
print(turns)
"""
        done = subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 0
        assert "make room on it" in done.stderr


def commits(path: Path) -> int:
    """The number of transactions in the write-ahead log."""
    log = Path(f"{path}-wal").read_bytes()
    page, salts, frames = int.from_bytes(log[8:12]), log[16:24], log[32:]
    heads = [frames[at : at + 24] for at in range(0, len(frames), 24 + page)]
    return sum(head[4:8] != bytes(4) for head in heads if head[8:16] == salts)


class TestCommits:
    @pytest.fixture
    def behind(self, store: SqliteStore, path: Path) -> Callable[..., list[Future[object]]]:
        """Makes calls while an earlier one waits for the disk. Returns their futures."""

        def make(*calls: Callable[[], object]) -> list[Future[object]]:
            store.update_conversation("eve", {"model": "m0"})
            with ThreadPoolExecutor(64) as threads, locked(path):
                first = threads.submit(store.update_conversation, "eve", {"model": "m1"})
                while not store._writer._has_leader or store._writer._queue:
                    time.sleep(0.001)
                futures = []
                for call in calls:
                    futures.append(threads.submit(call))
                    while len(store._writer._queue) < len(futures):
                        time.sleep(0.001)
            first.result()
            return futures

        return make

    def test_what_waits_at_one_moment_is_committed_at_once(
        self, store: SqliteStore, path: Path, behind: Callable[..., list[Future[object]]]
    ) -> None:
        store.ping()
        before = commits(path)
        begun = behind(*(lambda n=n: asked(store, str(n)) for n in range(30)))
        assert commits(path) == before + 3  # Two commits before, and one for all of them.
        assert [each.result().run.status for each in begun] == ["running"] + 29 * ["queued"]
        assert len(store.list_runs("ada", None, 100)) == 30

    def test_a_call_that_is_refused_or_fails_leaves_the_others_alone(
        self, store: SqliteStore, behind: Callable[..., list[Future[object]]]
    ) -> None:
        asked(store, request_id="id")
        good, busy, conflicting, broken, also_good = behind(
            lambda: asked(store, "1"),
            lambda: store.create_run("ada", Run("2"), waiting=1, start=True),
            lambda: asked(store, "3", request_id="id"),
            lambda: asked(store, "no text: \ud800", name="new"),
            lambda: asked(store, "4"),
        )
        assert isinstance(busy.exception(), ConversationBusy)
        assert isinstance(conflicting.exception(), RequestIdConflict)
        assert isinstance(broken.exception(), TypeError)
        assert store.get_conversation("new") is None
        assert [each.question for each in store.list_runs("ada", "queued", 10)] == ["4", "1"]
        assert good.result().run == store.get_run(good.result().run.id)
        assert also_good.result().is_new

    def test_what_waits_behind_a_failure_fails_with_it_at_once(
        self, store: SqliteStore, behind: Callable[..., list[Future[object]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If they failed one by one, each would wait for the locked file."""
        waits: list[object] = []
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.3)
        patient = database.begin_with_retries
        monkeypatch.setattr(database, "begin_with_retries", lambda db: (waits.append(db), patient(db)))
        store.update_conversation("eve", {"model": "m0"})
        with locked(store._writer._connection._path), ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(store.ping) for _ in range(8)]
            assert all(isinstance(each.exception(), StoreUnavailable) for each in calls)
        assert len(waits) == 1
        store.ping()

    def test_a_ping_behind_a_write_that_does_not_end_fails(
        self, store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert store_module.PING_SECONDS < 2
        monkeypatch.setattr(store_module, "PING_SECONDS", 0.05)
        monkeypatch.setattr(database, "BUSY_SECONDS", 60.0)
        store.ping()
        with ThreadPoolExecutor(1) as threads, locked(path):
            stuck = threads.submit(store.update_conversation, "ada", {"model": "m1"})
            while not store._writer._has_leader or store._writer._queue:
                time.sleep(0.001)
            with pytest.raises(StoreUnavailable):
                store.ping()
            assert schema.STUCK in caplog.text
        stuck.result()
        store.ping()


class TestForgetting:
    def test_deleting_leaves_nothing(self, store: SqliteStore, other: SqliteStore, path: Path, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        store.update_conversation("ada", {"model": "m1"})
        finished(store, asked(store, request_id="id").run)
        asked(store, "running")
        asked(other, "queued", request_id="other id")
        finished(store, asked(store, name="eve", request_id="id").run)
        store.delete_conversation("ada")
        other.listen([], 0.0)
        store.delete_conversation("eve")
        assert rows(path) == {}

    def test_usage_without_a_name_is_left_of_a_deleted_conversation(
        self, store: SqliteStore, path: Path, clock: Clock
    ) -> None:
        used = {"usage": Usage(1, 2, 3), "model": "m1"}
        store.create_conversation("expired", 60.0, {})
        for name in ("ada", "expired", "eve"):
            finished(store, asked(store, name=name).run, now=clock.now, **used)
        store.update_conversation("ada", {"title": "t", "system_prompt": "s"})
        clock.now += 61
        listed = store.list_usage(None, "1970-01-01", "1970-12-31")
        assert [(each.name, each.runs, each.total_tokens) for each in listed] == [
            ("", 1, 3),
            ("ada", 1, 3),
            ("eve", 1, 3),
        ]
        assert list(store.list_usage("expired", "1970-01-01", "1970-12-31")) == []
        store.delete_conversation("ada")
        store.delete_conversation("eve")
        store.sweep()
        assert rows(path) == {"usage": [("", 0, "1970-01-12", "m1", 3, 3, 6, 9)]}

    def test_no_word_of_what_was_deleted_is_left_in_the_file(self, store: SqliteStore, path: Path) -> None:
        finished(store, asked(store, "a secret question").run, text="a secret reply " * 1000)
        finished(store, asked(store, "another question", name="eve").run)
        store.delete_conversation("ada")
        store.close()
        assert b"another question" in path.read_bytes()
        assert b"secret" not in path.read_bytes()

    def test_no_word_of_what_was_deleted_is_left_beside_the_file_after_a_sweep(
        self, store: SqliteStore, path: Path
    ) -> None:
        finished(store, asked(store, "a secret question").run, text="a secret reply " * 1000)
        store.delete_conversation("ada")
        assert b"secret" in path.with_name(f"{path.name}-wal").read_bytes()
        store.sweep()
        assert not [each for each in path.parent.iterdir() if b"secret" in each.read_bytes()]

    def test_sweeping_forgets_what_has_expired_and_leaves_the_rest(
        self, store: SqliteStore, path: Path, clock: Clock
    ) -> None:
        finished(store, asked(store, name="eve").run)
        before = rows(path)
        for n in range(3):
            store.create_conversation(f"made {n}", 60.0, {})
            finished(store, asked(store, name=f"made {n}", request_id="id").run)
        clock.now += 61
        store.sweep()
        assert rows(path) == before

    def test_sweeping_forgets_request_ids_that_are_older_than_a_day(
        self, store: SqliteStore, path: Path, clock: Clock
    ) -> None:
        finished(store, asked(store, request_id="old").run)
        clock.now += REQUEST_ID_SECONDS
        finished(store, asked(store, request_id="new").run)
        clock.now += 1
        store.sweep()
        assert [request_id for _, request_id, _, _ in rows(path)["request_ids"]] == ["new"]

    def test_an_expired_conversation_is_gone_when_its_name_is_used_again(
        self, store: SqliteStore, path: Path, clock: Clock
    ) -> None:
        store.create_conversation("ada", 60.0, {})
        finished(store, asked(store, request_id="id").run)
        clock.now += 61
        store.create_conversation("ada", 60.0, {})
        assert rows(path).keys() == {"conversations"}

    def test_no_news_are_kept_for_a_worker_that_is_gone(
        self, store: SqliteStore, other: SqliteStore, path: Path
    ) -> None:
        told = asked(other, name="ada").run
        asked(other, name="eve")
        finished(store, told, "cancelled")
        assert len(rows(path)["notifications"]) == 1
        kill(other)
        assert asked(store, name="eve").is_new
        assert len(rows(path)["notifications"]) == 1
        store.sweep()
        assert "notifications" not in rows(path)

    def test_the_lock_of_a_worker_that_is_gone_is_removed_when_no_open_run_names_it(
        self, store: SqliteStore, other: SqliteStore, path: Path
    ) -> None:
        mine, run = asked(store, name="eve").run, asked(other).run
        locks = [name for name in other_files(path) if "-worker-" in name]
        assert len(locks) == 2
        kill(other)
        store.sweep()
        assert store.get_run(run.id).status == "interrupted"
        assert [name for name in other_files(path) if "-worker-" in name] == locks
        assert asked(store).is_new
        store.sweep()
        (left,) = [name for name in other_files(path) if "-worker-" in name]
        assert left in locks
        assert store.get_run(mine.id).is_open

    def test_a_worker_whose_lock_was_removed_keeps_its_runs_until_its_lease_passes(
        self, store: SqliteStore, other: SqliteStore, path: Path, clock: Clock
    ) -> None:
        run = asked(other).run
        for name in other_files(path):
            if "-worker-" in name:
                path.with_name(name).unlink()
        assert store.get_run(run.id).status == "running"
        clock.now += LEASE_SECONDS + 1
        assert store.get_run(run.id).status == "interrupted"


def kill(worker: SqliteStore) -> None:
    """End a worker as a killed process would."""
    worker._locks.release()


def test_a_follower_hears_at_once_that_a_runs_worker_is_gone(store: SqliteStore, other: SqliteStore) -> None:
    run = asked(other).run
    assert list(store.listen([run.id], 0.0)) == [run.id]
    kill(other)
    assert list(store.listen([run.id], 0.0)) == [run.id]
    assert list(store.listen([run.id], 0.0)) == []


STATEMENTS = {
    f"{module.__name__}.{name}": statement
    for module in (store_module, conversations, history, runs, sweep, transaction, usage)
    for name, statement in vars(module).items()
    if isinstance(statement, str) and statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE")
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_through_a_table(store: SqliteStore, path: Path, name: str) -> None:
    """The cost must not grow with the conversation or the file."""
    with closing(sqlite3.connect(path)) as db:
        statement = STATEMENTS[name]
        plan = db.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * statement.count("?")).fetchall()
    steps = [step for *_, step in plan]
    assert not [step for step in steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step]


def test_a_page_of_a_list_is_read_from_the_index(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        plans = {
            statement: [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}", [""] * statement.count("?"))]
            for statement in (conversations.CONVERSATIONS, usage.USAGE, usage.USAGE_OF_ONE)
        }
    listed, used, used_by_one = ("; ".join(steps) for steps in plans.values())
    assert "SEARCH c USING INDEX conversations_by_use (" in listed
    assert "B-TREE" not in listed
    assert "SEARCH u USING INDEX usage_by_day (owner=? AND day>? AND day<?)" in used
    assert "SEARCH u USING PRIMARY KEY (owner=? AND conversation_id=? AND day>? AND day<?)" in used_by_one


def test_a_list_tells_that_the_worker_of_the_newest_run_is_gone(
    store: SqliteStore, other: SqliteStore, clock: Clock
) -> None:
    asked(other)
    run = asked(other, name="eve").run
    other.pause_run("eve", replace(run, status="requires_action", expires=clock.now + 60))
    assert {each.newest_status for each in store.list_conversations(None, 2)} == {"running", "requires_action"}
    kill(other)
    assert {each.newest_status for each in store.list_conversations(None, 2)} == {"interrupted", "requires_action"}
    clock.now += 61
    assert {each.newest_status for each in store.list_conversations(None, 2)} == {"interrupted", "expired"}
    assert {each.newest_status for each in other.list_conversations(None, 2)} == {"interrupted", "expired"}


def test_the_usage_of_a_run_that_expired_is_counted_when_its_end_is_written(store: SqliteStore, clock: Clock) -> None:
    run = asked(store).run
    store.pause_run(
        "ada", replace(run, status="requires_action", expires=clock.now + 60, model="m1", usage=Usage(1, 2, 3))
    )
    clock.now += 61
    asked(store, "next")
    listed = store.list_usage(None, "1970-01-01", "1970-12-31")
    assert [(each.name, each.model, each.runs, each.total_tokens) for each in listed] == [("ada", "m1", 1, 3)]


def test_a_replaced_reply_is_read_from_its_run_and_deleted_from_the_history(store: SqliteStore, path: Path) -> None:
    old = finished(store, asked(store).run)
    new = store.create_run("ada", Run("why?", replaces=old.id), waiting=1, start=True).run
    finished(store, new, text="because")
    assert [(len(kept), kept[0][3]) for kept in [rows(path)["messages"]]] == [(2, new.created)]
    assert [store.get_run(run.id).text for run in (old, new)] == ["re: why?", "because"]
    store.delete_message("ada", new.reply_id)
    assert [store.get_run(run.id).text for run in (old, new)] == ["re: why?", "because"]


def test_an_imported_reply_is_stored_once(store: SqliteStore, path: Path) -> None:
    text = "word" * 250_000
    runs_before = [Run("?", id=f"run_{n}", created=1.0).ended_as("completed", 2.0, text=text) for n in range(3)]
    store.create_conversation("ada", 60.0, {}, is_unlisted=True)
    store.sweep()
    before = path.stat().st_size
    store.import_history("ada", [each for run in runs_before for each in run.history_messages()], runs_before)
    store.sweep()
    assert 2_900_000 < path.stat().st_size - before < 3_100_000
    assert [run.text == text for run in store.list_runs("ada", None, 3)] == [True, True, True]


def test_a_window_of_a_long_history_is_read_by_its_indexes(store: SqliteStore) -> None:
    asked(store)
    messages = [Message.of("user", str(n), None, 1.0) for n in range(10_000)]
    store._write(lambda seen: History(seen.db, 1).add(0, messages))
    assert [each.content for each in store.list_messages("ada", 9_997, 10_001)] == ["9997", "9998", "9999"]
    kept = store.get_conversation("ada")
    assert kept is not None
    assert kept.message_count == 10_000


def child(script: str, path: Path, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """Start another process, which runs `script` after a common preamble."""
    head = f"""{before}
import os, sys
from server.errors import StoreUnavailable
from server.store.sqlite import SqliteStore
from tests.store.contract import asked, contents, finished
def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())
store = SqliteStore(sys.argv[1], 1e6)
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + script, path, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


TALK = """
import threading
def talk(name):
    for n in range(1_000_000):
        run = asked(store, f"{sys.argv[2]}.{n}", name).run
        say("begun", name, run.id)
        store.append_text(name, run.id, 0, "be")
        say("written", name, run.id)
        finished(store, run)
        say("finished", name, run.id)
for name in ("ada", "eve", "bob"):
    threading.Thread(target=talk, args=(name,)).start()
"""


def test_what_was_acknowledged_survives_a_kill_at_any_instant(path: Path) -> None:
    acknowledged: dict[str, str] = {}
    for number, lines in enumerate((1, 2, 7, 40, 101)):
        talking = child(TALK, path, str(number))
        assert talking.stdout is not None
        for count, line in enumerate(talking.stdout):
            if count == lines:
                talking.kill()
            said, _, run_id = line.split()
            acknowledged[run_id] = said
        assert talking.wait() == -signal.SIGKILL
        store = SqliteStore(str(path), 1e6)
        completed = []
        for run_id, said in acknowledged.items():
            run = store.get_run(run_id)
            assert run.status == "completed" or (run.status == "interrupted" and said != "finished")
            assert run.text in {"begun": ("", "be", f"re: {run.question}")}.get(said, ("be", f"re: {run.question}"))
            completed += [run] if run.status == "completed" else []
        for name in ("ada", "eve", "bob"):
            history = [text for run in completed if run.conversation == name for text in (run.question, run.text)]
            assert contents(store, name)[: len(history)] == history
            assert (
                len(contents(store, name)) <= len(history) + 2
            )  # One more may be written without having been reported.
            assert not any(run.is_open for run in store.list_runs(name, None, 1000))
        store.close()
    assert {"begun", "finished"} <= set(acknowledged.values())


def test_processes_that_share_a_conversation_take_their_turns(path: Path) -> None:
    script = """
for n in range(12):
    begun = asked(store, f"{sys.argv[2]}.{n}")
    conversation = begun.conversation if begun.run.status == "running" else None
    while conversation is None:
        store.listen([], 0.05)
        conversation = store.start_run("ada", begun.run.id)
    say(conversation.message_count)
    finished(store, begun.run)
store.close()
"""
    processes = [child(script, path, str(number)) for number in range(3)]
    counts = [int(word) for each in processes for word in each.communicate()[0].split()]
    assert [each.returncode for each in processes] == [0, 0, 0]
    assert sorted(counts) == list(range(0, 72, 2))
    store = SqliteStore(str(path), LEASE_SECONDS)
    assert len(contents(store)) == 72
    assert [f"re: {question}" for question in contents(store)[::2]] == contents(store)[1::2]
    store.close()
    assert other_files(path) == []


GREENLETS = """
from gevent import monkey
monkey.patch_all()
"""


class TestUnderGevent:
    def test_who_reads_does_not_wait_for_the_disk_that_another_writes_to(self, path: Path) -> None:
        script = """
import threading
store.update_conversation("ada", {"model": "m1"})
say("ready")
os.read(0, 1)
writing = [threading.Thread(target=asked, args=(store, str(n))) for n in range(3)]
for each in writing:
    each.start()
say("read", store.get_conversation("ada").model, len(store.list_runs("ada", None, 10)))
for each in writing:
    each.join()
say("written", len(store.list_runs("ada", None, 10)))
store.close()
"""
        process = child(script, path, before=GREENLETS)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with locked(path):
            process.stdin.write("!")
            process.stdin.flush()
            assert process.stdout.readline() == "read m1 0\n"
        assert process.communicate()[0] == "written 3\n"
        assert len(rows(path)["open_runs"]) == 3

    @pytest.mark.parametrize("killed", [0, 1, 2])
    def test_one_who_is_ended_while_it_waits_holds_nobody_up(self, path: Path, killed: int) -> None:
        script = """
import gevent
store.ping()
say("ready")
os.read(0, 1)
writing = [gevent.spawn(store.update_conversation, name, {"model": "m1"}) for name in ("ada", "eve", "bob")]
gevent.sleep(0)
writing[int(sys.argv[2])].kill(block=False)
gevent.sleep(0)
say("killed")
gevent.joinall(writing)
store.update_conversation("last", {"model": "m1"})
say(*[name for name in ("ada", "eve", "bob", "last") if store.get_conversation(name)])
"""
        process = child(script, path, str(killed), before=GREENLETS)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with locked(path):
            process.stdin.write("!")
            process.stdin.flush()
            assert process.stdout.readline() == "killed\n"
        kept = process.communicate()[0].split()
        assert process.returncode == 0
        # Writes that waited in one batch with a killed leader fail with it.
        assert kept == [["last"], ["ada", "bob", "last"], ["ada", "eve", "last"]][killed]


class TestLimits:
    def test_a_sweep_deletes_what_limits_nobody_any_more(self, store: SqliteStore, path: Path, clock: Clock) -> None:
        charge = Charge("k", "1970-01-12", 5, 1)
        for n in range(120):
            limits = RunLimits(RateLimit(f"key {n}", 1, 60.0), 1_000)
            run = store.create_run(
                "ada", Run(f"{n}", charge=charge), CreateOptions(limits=limits), waiting=1, start=True
            )
            finished(store, run.run, usage=Usage(1, 1, 2))
        store.sweep()
        assert len(rows(path)["rate_hits"]) == 120
        clock.now += MAX_RATE_SECONDS
        store.sweep()
        assert "rate_hits" not in rows(path)
        assert rows(path)["budgets"] == [("k", "1970-01-12", 240, 1_000_000.0)]
        clock.now += BUDGET_SECONDS
        store.sweep()
        assert "budgets" not in rows(path)
