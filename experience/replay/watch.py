"""What the tables of a replay are at, for those outside: Prometheus text, JSON, and lines for a terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

from experience.replay.tables.live import TableInfo

GAUGES = ("size", "max_size", "difference", "tokens", "groups", "incomplete", "policy_version")
COUNTERS = ("inserts", "samples", "deletes", "stale")


def prometheus_text(infos: Mapping[str, TableInfo]) -> str:
    """Return counters and gauges of all tables as Prometheus reads them."""
    lines = []
    for name, kind in (*((one, "gauge") for one in GAUGES), *((one, "counter") for one in COUNTERS)):
        metric = f"replay_{name}{'_total' if kind == 'counter' else ''}"
        values = [(f'table="{table}"', getattr(info, name)) for table, info in infos.items()]
        lines += _metric(metric, kind, values)
    for name, kind in (("waiting", "gauge"), ("longest_s", "gauge"), ("blocked", "counter"), ("blocked_s", "counter")):
        metric = f"replay_calls_{name.removesuffix('_s')}{'_seconds' if name.endswith('_s') else ''}"
        values = [
            (f'table="{table}",call="{call}"', getattr(getattr(info, f"{call}_waits"), name))
            for table, info in infos.items()
            for call in ("insert", "sample")
        ]
        lines += _metric(metric + ("_total" if kind == "counter" else ""), kind, values)
    return "\n".join(lines) + "\n"


class WatchServer:
    """Serves what a replay is at over HTTP: /metrics for Prometheus, /info as JSON; stops with the process."""

    def __init__(self, info: Callable[[], Mapping[str, TableInfo]], host: str = "127.0.0.1", port: int = 0) -> None:
        """Begin to serve.

        Args:
            info: `Replay.info`.
            host: Who may ask: 127.0.0.1 this machine only.
            port: 0: any free one.
        """

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, page = "text/plain; version=0.0.4", "expected /metrics or /info\n"
                if self.path == "/metrics":
                    page = prometheus_text(info())
                elif self.path == "/info":
                    kind, page = "application/json", json.dumps(_rows(info()))
                self.send_response(200 if self.path in ("/metrics", "/info") else 404)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def lines_of(url: str) -> Iterator[str]:
    """Yield what a replay that serves at a URL is at, a line a table and one for each reason that calls wait for.

    Raises:
        ValueError: Nobody answers there, or something else.
    """
    try:
        with urlopen(f"{url.rstrip('/')}/info", timeout=5) as answer:
            rows: Sequence[dict[str, Any]] = json.loads(answer.read())
    except (OSError, ValueError) as fault:
        raise ValueError(f"{url}: no replay answers there ({fault}); start one: WatchServer(replay.info)") from fault
    yield f"{'table':20}{'size':>18}{''.join(f'{name:>12}' for name in COUNTERS)}{'waiting: insert':>17}{'sample':>8}"
    for row in rows:
        size = f"{row['size']} of {row['max_size']}"
        counts = "".join(f"{row[name]:>12}" for name in COUNTERS)
        waiting = row["insert_waits"]["waiting"], row["sample_waits"]["waiting"]
        yield f"{row['name']:20}{size:>18}{counts}{waiting[0]:>17}{waiting[1]:>8}"
        if row["tokens"] or row["groups"] or row["incomplete"]:
            groups = f"; {row['groups']} groups, {row['incomplete']} items of incomplete ones"
            yield f"  {row['tokens']} tokens, newest policy {row['policy_version']}{groups}; counts {row['counts']}"
        for call, count in zip(("insert", "sample"), waiting, strict=True):
            if count:
                longest = row[f"{call}_waits"]["longest_s"]
                yield f"  {call}s wait, the first for {longest:.1f} s: {row[f'why_no_{call}']}"


def _rows(infos: Mapping[str, TableInfo]) -> list[dict[str, Any]]:
    return [
        {**info._asdict(), **{name: getattr(info, name)._asdict() for name in ("insert_waits", "sample_waits")}}
        for info in infos.values()
    ]


def _metric(name: str, kind: str, values: Sequence[tuple[str, float]]) -> list[str]:
    return [f"# TYPE {name} {kind}", *(f"{name}{{{labels}}} {value:g}" for labels, value in values)]
