"""A pytest plugin that writes down which of the pack's functions each test reaches, and how long it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

# Other processes are not followed: what starts one may reach everything.
_STARTS_A_PROCESS = subprocess.Popen.__init__.__code__
EVERYTHING = "everything"


class Reach:
    """``tests``: name -> what it reaches (``file::function``), seconds, and whether it failed."""

    def __init__(self, root: Path) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self._root = f"{root}/"
        self._codes: set[CodeType] = set()
        # By the name of a fixture that several tests share: only the first of them is seen to make it.
        self._shared: dict[str, set[CodeType]] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Follow one test, its fixtures included."""
        self._codes = set()
        started = time.perf_counter()
        self.tests[item.nodeid] = {"failed": False}
        sys.setprofile(self._follow)
        yield
        sys.setprofile(None)
        seconds = time.perf_counter() - started
        codes = self._codes.union(*(self._shared.get(name, ()) for name in getattr(item, "fixturenames", ())))
        reached = sorted({self._name(code) for code in codes})
        self.tests[item.nodeid] |= {"seconds": seconds, "reached": reached}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Follow what is made once for several tests on its own."""
        if fixturedef.scope == "function":
            yield
            return
        mine, self._codes = self._codes, self._shared.setdefault(fixturedef.argname, set())
        yield
        self._codes = mine

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember failures: a test that fails anyway notices nothing."""
        if report.failed:
            self.tests[report.nodeid]["failed"] = True

    def _follow(self, frame: Any, event: str, _: object) -> None:
        if event == "call":
            code = frame.f_code
            if code is _STARTS_A_PROCESS or code.co_filename.startswith(self._root):
                self._codes.add(code)

    def _name(self, code: CodeType) -> str:
        if code is _STARTS_A_PROCESS:
            return EVERYTHING
        function = code.co_qualname.split(".<locals>")[0]
        return f"{code.co_filename.removeprefix(self._root)}::{function}"
