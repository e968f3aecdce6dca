"""What a process counts, what becomes of the counts of others, and the text that Prometheus reads."""

import os
import threading
import time
from pathlib import Path

import pytest

from server.metrics import Folder, Metrics
from tests.support.metrics import Samples, parse_metrics

OTHER_PID = 2**22 + 1
"""No process has it."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Folder.create()


@pytest.fixture
def metrics(folder: Folder) -> Metrics:
    metrics = Metrics()
    metrics.share(folder)
    return metrics


def samples(metrics: Metrics) -> Samples:
    return parse_metrics(metrics.render().decode())


def write_other(folder: Folder, **numbers: list[float]) -> None:
    """The numbers of another worker, those without labels."""
    folder.write(OTHER_PID, {f"conversation_{name}": {(): values} for name, values in numbers.items()})


def test_a_counter_adds_up_by_label() -> None:
    metrics = Metrics()
    metrics.tokens.add("prompt", "m", amount=3)
    metrics.tokens.add("prompt", "m", amount=4)
    metrics.tokens.add("completion", "m", amount=1)
    assert samples(metrics)["conversation_tokens_total"] == {("prompt", "m"): 7, ("completion", "m"): 1}


def test_a_histogram_counts_up_to_each_bound_and_the_bound_itself() -> None:
    metrics = Metrics()
    for seconds in (0.1, 0.2, 700.0):
        metrics.upstream.observe(seconds)
    found = samples(metrics)
    buckets = found["conversation_upstream_seconds_bucket"]
    assert [buckets[(bound,)] for bound in ("0.1", "0.25", "600.0", "+Inf")] == [1, 2, 2, 3]
    assert found["conversation_upstream_seconds_count"] == {(): 3}
    assert found["conversation_upstream_seconds_sum"][()] == pytest.approx(700.3)


def test_a_gauge_is_measured_when_it_is_read() -> None:
    metrics = Metrics()
    runs: list[str] = []
    metrics.runs_open.watch(lambda: len(runs))
    runs.append("run")
    assert samples(metrics)["conversation_runs_open"] == {(): 1}


def test_nothing_is_lost_if_many_threads_count_at_once() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(2000):
            metrics.runs.add("failed")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics)["conversation_runs_total"][("failed",)] == 16_000


def test_every_metric_is_there_before_anything_was_counted() -> None:
    metrics = Metrics()
    text = metrics.render().decode()
    assert {each.name for each in metrics.families} == {
        line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE ")
    }
    assert samples(metrics)["conversation_runs_total"] == dict.fromkeys(
        [("completed",), ("failed",), ("cancelled",), ("interrupted",)], 0
    )


def test_the_numbers_are_the_sums_of_all_workers(metrics: Metrics, folder: Folder) -> None:
    metrics.store_errors.add()
    metrics.flush()
    write_other(folder, store_errors=[2.0], runs_open=[5.0])
    found = samples(metrics)
    assert (found["conversation_store_errors_total"][()], found["conversation_runs_open"][()]) == (3, 5)


def test_an_ended_worker_leaves_one_file_for_all_and_no_gauge_but_that_of_the_replies(
    metrics: Metrics, folder: Folder
) -> None:
    for _ in range(3):
        write_other(folder, store_errors=[2.0], runs_waiting=[1.0], replies_uncollected=[4.0])
        folder.retire([os.getpid()], metrics.retire)
    found = samples(metrics)
    assert found["conversation_store_errors_total"] == {(): 6}
    assert found["conversation_replies_uncollected"] == {(): 12}
    assert found["conversation_runs_waiting"] == {(): 0}
    assert {path.stem for path in folder.path.glob("*.json")} == {"dead", str(os.getpid())}


def test_the_runs_that_a_killed_worker_had_open_count_as_interrupted(metrics: Metrics, folder: Folder) -> None:
    write_other(folder, runs_open=[7.0])
    folder.retire([], metrics.retire)
    found = samples(metrics)
    assert (found["conversation_runs_total"][("interrupted",)], found["conversation_runs_open"][()]) == (7, 0)


def test_a_living_worker_is_not_retired(metrics: Metrics, folder: Folder) -> None:
    write_other(folder, runs_open=[7.0])
    folder.retire([OTHER_PID], metrics.retire)
    assert samples(metrics)["conversation_runs_open"][()] == 7


def test_numbers_that_have_not_changed_are_not_written_again(metrics: Metrics, folder: Folder) -> None:
    metrics.flush()
    (file,) = folder.path.glob("*.json")
    file.unlink()
    metrics.flush()
    assert list(folder.path.glob("*.json")) == []
    metrics.store_errors.add()
    metrics.flush()
    assert list(folder.path.glob("*.json")) == [file]


def test_a_lost_folder_is_logged_once_and_fails_nothing_but_a_scrape(
    metrics: Metrics, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.delete()
    for _ in range(3):
        metrics.store_errors.add()
        metrics.flush()
    folder.retire([], metrics.retire)
    assert [each.getMessage().partition(":")[0] for each in caplog.records] == [
        "metrics cannot be shared with other workers",
        "the metrics of an ended worker are lost",
    ]
    with pytest.raises(OSError):
        metrics.render()


def test_a_start_deletes_what_killed_servers_left_and_nothing_else(folder: Folder, tmp_path: Path) -> None:
    abandoned, young = tmp_path / "conversation-metrics-old", tmp_path / "conversation-metrics-young"
    for path in (abandoned, young):
        path.mkdir()
    for path in (abandoned, folder.path):
        os.utime(path, (time.time() - 3600,) * 2)
    new = Folder.create()
    assert {path.name for path in tmp_path.iterdir()} == {young.name, folder.path.name, new.path.name}
