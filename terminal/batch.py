"""`batch`: asks every question of a file, several at the same time, and continues where an earlier run ended."""

import queue
import threading
import time
from argparse import Namespace
from collections import deque
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.text import Text

from terminal import words
from terminal.client import KEY_CODES, Client, Refused, ServerDown
from terminal.commands import INTERRUPTED
from terminal.inert import make_inert_line
from terminal.questions import Question, read_questions
from terminal.reply import on_ctrl_c
from terminal.results import Results
from terminal.screen import make_console

PASSING = {"shutting_down", "store_unavailable", "conversation_busy", "rate_limited", "upstream_rate_limited"}
"""Codes of errors that pass by themselves."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt after such an error, or after the connection broke."""


def batch(client: Client, arguments: Namespace) -> int:
    """Ask what has no result yet. Returns 1 if some failed, 130 after Ctrl-C.

    Raises Refused if the server does not accept the key; what has a result then stays.
    """
    path = Path(arguments.file)
    questions = read_questions(path)
    client.scope()  # A server that is down, or does not accept the key, is told before anything is asked.
    out = Path(arguments.out) if arguments.out else path.with_name(f"{path.name}.results.jsonl")
    results = Results(out, questions)
    kept = sum(question in results for question in questions)
    asking = _Asking(client, [each for each in questions if each not in results], arguments.parallel)
    console = make_console(is_error=True)
    try:
        with _progress(console) as progress, on_ctrl_c(lambda: _stop(asking, console)):
            task = progress.add_task("", total=len(questions), completed=kept, began=kept)
            for question, outcome in asking:
                results.add(question, outcome)
                progress.advance(task)
                if outcome["status"] != "completed":
                    told = make_inert_line(f"Line {question.line}: {outcome['error']} ({outcome['code']})")
                    console.print(Text().append("✕ ", "red").append(told), soft_wrap=True)
    finally:
        results.close()
    failed, left = results.failed(), len(questions) - sum(question in results for question in questions)
    _summarise(console, out, len(questions) - left - failed, kept, failed, left)
    if asking.refusal is not None:
        raise asking.refusal
    return INTERRUPTED if left else int(failed > 0)


class _Asking:
    """Asks on threads of its own. Iterating gives each question with its outcome, in the order of their ends."""

    def __init__(self, client: Client, questions: list[Question], parallel: int) -> None:
        self._client = client
        self._lanes = deque(_lanes(questions))
        self._done: queue.Queue[tuple[Question, dict[str, Any]] | None] = queue.Queue()
        self.is_stopped = threading.Event()
        self.is_given_up = threading.Event()
        self.refusal: Refused | None = None
        """Of the key: with it, no further question would be answered."""
        self._threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(min(parallel, len(self._lanes)))
        ]

    def __iter__(self) -> Any:
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        while working and not self.is_given_up.is_set():
            try:
                done = self._done.get(timeout=0.1)
            except queue.Empty:
                continue
            if done is None:
                working -= 1
            else:
                yield done

    def _work(self) -> None:
        try:
            while not self.is_stopped.is_set():
                try:
                    lane = self._lanes.popleft()
                except IndexError:
                    return
                for question in lane:
                    if self.is_stopped.is_set():
                        return
                    self._done.put((question, self._ask(question)))
        except Refused as error:
            self.refusal = error
            self.is_stopped.set()
        finally:
            self._done.put(None)

    def _ask(self, question: Question) -> dict[str, Any]:
        started = time.monotonic()
        for pause in (*PAUSES, None):
            try:
                answer = self._client.ask(question.body(), question.request_id)
            except Refused as error:
                if error.code in KEY_CODES:
                    raise
                outcome = {"status": "failed", "error": error.sentence, "code": error.code}
                if error.code not in PASSING:
                    break
                seconds = error.retry_after or pause
            except ServerDown as error:
                outcome = {"status": "failed", "error": str(error), "code": "server_down"}
                seconds = pause
            else:
                told = {name: answer[name] for name in ("response", "model", "usage") if answer.get(name) is not None}
                return {"status": "completed", **told, "seconds": round(time.monotonic() - started, 3)}
            if pause is None or self.is_stopped.wait(seconds):
                break
        return outcome


def _lanes(questions: list[Question]) -> list[list[Question]]:
    """The questions of one conversation are asked one after the other; those without one, all at the same time."""
    lanes: list[list[Question]] = []
    by_name: dict[str, list[Question]] = {}
    for question in questions:
        if question.client_name in by_name:
            by_name[question.client_name].append(question)
            continue
        lanes.append([question])
        if question.client_name is not None:
            by_name[question.client_name] = lanes[-1]
    return lanes


def _stop(asking: _Asking, console: Console) -> None:
    """The first Ctrl-C lets open questions end, the second leaves them; a later run collects their replies."""
    if asking.is_stopped.is_set():
        asking.is_given_up.set()
        return
    asking.is_stopped.set()
    console.print("Stopping: waiting for the open replies. Ctrl-C again leaves at once.")


def _progress(console: Console) -> Progress:
    columns = (BarColumn(None, "dim", "green", "green"), MofNCompleteColumn(), _RateColumn())
    return Progress(*columns, console=console, expand=True, disable=not console.is_terminal)


class _RateColumn(ProgressColumn):
    """Questions a second, and the time that is left at this rate."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["began"]
        if not done or not task.elapsed:
            return Text()
        rate = done / task.elapsed
        told = f"{rate:.1f}/s" if rate < 100 else f"{rate:.0f}/s"
        left = "" if task.finished else f" · {words.seconds(task.remaining / rate)} left" if task.remaining else ""
        return Text(told + left, "dim")


def _summarise(console: Console, out: Path, answered: int, kept: int, failed: int, left: int) -> None:
    parts = [f"{answered} answered" + (f" ({kept} before)" if kept else "")]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{left} not asked"] if left else []
    again = "; run it again to go on" if failed or left else ""
    console.print(make_inert_line(f"{' · '.join(parts)} → {out}{again}"), soft_wrap=True)
