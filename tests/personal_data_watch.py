"""The search for patient data over everything a test session says and writes; a finding fails the session.

Watched: captured output and log, what `capsys` and its kin hand to tests, output of subprocesses, log records,
warnings, messages of every `ImageError`, of every error a test expects and of every failure, and at the end all files
below pytest's temporary folder that are not themselves inputs. A finding names the test or file and the DICOM
keyword, never the value. Texts are only kept while tests run; one search at the end looks through them all.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.personal_data import Search, search_for
from tests.personal_data_files import texts_of

_MAX_PENDING_BYTES = 1 << 24


def pytest_configure(config: pytest.Config) -> None:
    """Watch where tests run: in the only process, or in each of xdist's workers."""
    config.pluginmanager.register(Watch(config), "personal-data")


class Finding(NamedTuple):
    where: str
    """A test and what it said, or a file below the temporary folder."""
    keyword: str


class Texts:
    """What has been said since the last search."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._where: list[str] = []
        self._seen: set[int] = set()
        self.num_bytes = 0

    def add(self, where: str, text: object) -> None:
        """Keep a text (str or bytes; anything else says nothing) under a name, once."""
        data = text.encode(errors="replace") if isinstance(text, str) else text
        key = hash((where, data))
        if isinstance(data, bytes) and data and key not in self._seen:
            self._seen.add(key)
            self._pieces.append(data)
            self._where.append(where)
            self.num_bytes += len(data)

    def findings(self, search: Search) -> set[Finding]:
        """Search all at once, and forget."""
        starts = list(itertools.accumulate((len(piece) + 1 for piece in self._pieces), initial=0))
        hits = search.hits(b"\n".join(self._pieces))
        found = {Finding(self._where[bisect.bisect_right(starts, hit.position) - 1], hit.keyword) for hit in hits}
        self._pieces, self._where, self._seen, self.num_bytes = [], [], set(), 0
        return found


class Watch:
    """The hooks."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._texts = Texts()
        self._findings: set[Finding] = set()
        self._test = "collection"
        self._undo = [patch(self.say) for patch in (_watch_log, _watch_errors, _watch_capture, _watch_subprocesses)]

    def say(self, kind: str, text: object) -> None:
        """Keep a text of the running test."""
        self._texts.add(f"{self._test}: {kind}", text)
        if self._texts.num_bytes > _MAX_PENDING_BYTES:
            self._search()

    def _search(self) -> None:
        self._findings |= self._texts.findings(search_for(_kit()))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if _is_controller(self._config):
            return
        self._test = report.nodeid
        for title, text in report.sections:
            self.say(title, text)
        if report.failed:
            self.say("failure", "\n".join(_messages_of_failure(report)))

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        self._texts.add(f"{nodeid or self._test}: warning", str(warning_message.message))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for undo in self._undo:
            undo()
        if not _is_controller(self._config):
            self._test = "after the tests"
            self._search()
            self._findings |= set(_findings_in_files(self._config, search_for(_kit())))
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["personal_data"] = [list(finding) for finding in self._findings]
        elif self._findings:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist hands its findings over."""
        self._findings |= {Finding(*found) for found in getattr(node, "workeroutput", {}).get("personal_data", [])}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._findings:
            terminalreporter.section("personal data found", red=True)
        for finding in sorted(self._findings):
            terminalreporter.write_line(f"{finding.keyword} in {finding.where}")


def _is_controller(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput") and bool(getattr(config.option, "numprocesses", None))


def _kit() -> Path | None:
    from tests.conftest import kit_folder

    return kit_folder() if kit_folder().is_dir() else None


def _messages_of_failure(report: pytest.TestReport) -> Iterator[str]:
    """The lines that errors say; the test's own source, which may hold what it plants, is left out."""
    lines = str(report.longrepr).splitlines()
    return (line for line in lines if line.startswith("E  ") or not line.startswith((" ", ">")))


def _findings_in_files(config: pytest.Config, search: Search) -> Iterator[Finding]:
    folder = getattr(getattr(config, "_tmp_path_factory", None), "_basetemp", None)  # None: no test asked for one
    for path in sorted(folder.rglob("*")) if folder is not None else []:
        if path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        found = search.keywords_in(name)
        for text in texts_of(path):
            found |= search.keywords_in(text)
        for keyword in found:
            yield Finding(f"file {name}", keyword)


# What is watched while tests run. Each takes `say(kind, text)` and returns what undoes it.

_Say = Callable[[str, object], None]
_Undo = Callable[[], None]


def _replaced(owner: Any, name: str, new: Any) -> _Undo:
    old = getattr(owner, name)
    setattr(owner, name, new)
    return lambda: setattr(owner, name, old)


def _watch_log(say: _Say) -> _Undo:
    make = logging.getLogRecordFactory()

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = make(*arguments, **options)
        try:
            say("log", made.getMessage())
        except (TypeError, ValueError):  # a format that does not fit is the handlers' to report
            say("log", repr((made.msg, made.args)))
        return made

    logging.setLogRecordFactory(record)
    return lambda: logging.setLogRecordFactory(make)


def _watch_errors(say: _Say) -> _Undo:
    """Every ImageError that is made, shown or not; and every error that `pytest.raises` expects."""
    from medsiglip.imaging.frame import ImageError

    made, expected = ImageError.__init__, pytest.RaisesExc.__exit__

    def init(self: ImageError, file: str, reason: str) -> None:
        made(self, file, reason)
        say("ImageError", f"{file}: {reason}")

    def exit(self: Any, exc_type: Any, exc_value: BaseException | None, exc_tb: Any) -> bool:
        __tracebackhide__ = True
        for error in _shown_chain(exc_value):
            say(type(error).__name__, str(error))
        return bool(expected(self, exc_type, exc_value, exc_tb))

    undo = [_replaced(ImageError, "__init__", init), _replaced(pytest.RaisesExc, "__exit__", exit)]
    return lambda: [step() for step in undo] and None


def _shown_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that a traceback would show before it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _watch_capture(say: _Say) -> _Undo:
    """What capsys, capfd and typer's runner hand over: it does not come back in the report."""
    from typer.testing import CliRunner

    read, invoke = pytest.CaptureFixture.readouterr, CliRunner.invoke

    def readouterr(self: pytest.CaptureFixture[Any]) -> Any:
        captured = read(self)
        say("captured stdout", captured.out)
        say("captured stderr", captured.err)
        return captured

    def invoked(self: Any, *arguments: Any, **options: Any) -> Any:
        result = invoke(self, *arguments, **options)
        say("command's output", result.output)
        return result

    undo = [_replaced(pytest.CaptureFixture, "readouterr", readouterr), _replaced(CliRunner, "invoke", invoked)]
    return lambda: [step() for step in undo] and None


def _watch_subprocesses(say: _Say) -> _Undo:
    """Output that `subprocess.run` and `communicate` hand over."""
    communicate = subprocess.Popen.communicate

    def communicated(self: Any, *arguments: Any, **options: Any) -> Any:
        out, err = communicate(self, *arguments, **options)
        say("subprocess's stdout", out)
        say("subprocess's stderr", err)
        return out, err

    return _replaced(subprocess.Popen, "communicate", communicated)
