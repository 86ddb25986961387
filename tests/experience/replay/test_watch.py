"""What those outside see: Prometheus text, lines of a terminal, and why a call waits."""

import threading
import time
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from experience.cli import app
from experience.replay import Fields, Replay, Table, rate_limiters, selectors
from experience.replay.watch import WatchServer, lines_of, prometheus_text


def test_prometheus_text() -> None:
    replay = Replay([Table.queue("q", 3), Table.queue("r", 9)])
    replay.insert(1, {"q": 1})
    text = prometheus_text(replay.info())
    for line in (
        'replay_size{table="q"} 1',
        'replay_max_size{table="r"} 9',
        "# TYPE replay_inserts_total counter",
        'replay_inserts_total{table="q"} 1',
        'replay_calls_waiting{table="q",call="insert"} 0',
        'replay_calls_blocked_seconds_total{table="r",call="sample"} 0',
    ):
        assert line in text.splitlines(), line


def test_what_grew_old_and_what_waits_for_its_group_is_shown() -> None:
    limiter = rate_limiters.MinSize(1, "tokens")
    table = Table("t", selectors.Uniform(), selectors.Fifo(), 9, limiter, group_size=2, max_age=1)
    replay = Replay([table])
    for version, group in enumerate("aabbc"):
        replay.insert(0, {"t": 1}, fields=Fields(2 + version, group, tokens=10))
    text = prometheus_text(replay.info()).splitlines()
    for name, value in (("stale_total", 4), ("tokens", 10), ("groups", 0), ("incomplete", 1), ("policy_version", 6)):
        assert f'replay_{name}{{table="t"}} {value}' in text
    server = WatchServer(replay.info)
    try:
        _, row, known = lines_of(server.url)
    finally:
        server.close()
    assert row.split() == ["t", "1", "of", "9", "40", "0", "40", "4", "0", "0"]
    assert known == "  10 tokens, newest policy 6; 0 groups, 1 items of incomplete ones; counts tokens"


def test_a_blocked_call_is_seen_from_outside() -> None:
    replay = Replay([Table.queue("q", 1)])
    server = WatchServer(replay.info)
    try:
        replay.insert(1, {"q": 1})
        thread = threading.Thread(target=lambda: replay.insert(2, {"q": 1}))
        thread.start()
        while not replay.info()["q"].insert_waits.waiting:
            time.sleep(0.001)
        shown = CliRunner().invoke(app, ["replay-info", server.url])
        assert shown.exit_code == 0 and " ".join(shown.output.splitlines()[1].split()) == "q 1 of 1 1 0 0 0 1 0"
        assert "inserts wait, the first for" in shown.output and "1 more samples free it" in shown.output
        replay.sample("q")
        thread.join(10)
        assert len(list(lines_of(server.url))) == 2
        with urlopen(f"{server.url}/metrics") as answer:
            assert b'replay_inserts_total{table="q"} 2' in answer.read()
    finally:
        server.close()
    with pytest.raises(ValueError, match=r"no replay answers there .*WatchServer\(replay.info\)"):
        list(lines_of(server.url))
