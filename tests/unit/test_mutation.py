"""The planting of faults: each operator has its faults, each fault is where it says, and the sound file stays."""

from __future__ import annotations

import ast

import pytest

from fluxduel.tests.comfy_host import ROOT
from fluxduel.tests.mutation.faults import faults, with_fault

SOURCE = '''
"""A text of 1 line."""
import functools

LIMIT = 3


class Sum:
    def __init__(self, first: int = 1) -> None:
        self.value = first

    @functools.cache
    def add(self, x, y):
        if x < y and not y:
            raise ValueError(f"{x + 1} is too little")
        with self.lock():
            self.log(x, y=y)
        for one in x[1:]:
            self.value += one.abs() if one else -one
            break
        return max(x, y)
'''


def told(source: str) -> list[str]:
    return [fault.in_words("f.py") for fault in faults(source)]


def test_every_kind_of_fault_is_known_with_its_place() -> None:
    expected = [
        ("5 in the module", "3", "4"),
        ("9 in the module", "1", "2"),
        ("10 in Sum.__init__", "self.value = first", "pass"),
        ("12 in the module", "@functools.cache", "nothing"),
        ("14 in Sum.add", "x < y and (not y)", "not (x < y and (not y))"),
        ("14 in Sum.add", "x < y and (not y)", "x < y or not y"),
        ("14 in Sum.add", "x < y", "x <= y"),
        ("14 in Sum.add", "not y", "y"),
        ("15 in Sum.add", "raise ValueError(f'{x + 1} is too little')", "pass"),
        ("16 in Sum.add", "self.lock()", "__import__('contextlib').nullcontext()"),
        ("17 in Sum.add", "self.log(x, y=y)", "pass"),
        ("17 in Sum.add", "self.log(x, y=y)", "self.log(x)"),
        ("17 in Sum.add", "self.log(x, y=y)", "self"),
        ("18 in Sum.add", "x[1:]", "x[:]"),
        ("18 in Sum.add", "1", "2"),
        ("19 in Sum.add", "self.value += one.abs() if one else -one", "self.value -= one.abs() if one else -one"),
        ("19 in Sum.add", "one", "not one"),
        ("19 in Sum.add", "one.abs()", "one"),
        ("19 in Sum.add", "-one", "one"),
        ("20 in Sum.add", "break", "continue"),
        ("21 in Sum.add", "return max(x, y)", "return None"),
        ("21 in Sum.add", "max(x, y)", "max(y, x)"),
        ("21 in Sum.add", "max(x, y)", "min(x, y)"),
    ]
    assert sorted(told(SOURCE)) == sorted(f"f.py:{place}: `{was}` became `{now}`" for place, was, now in expected)


def test_a_planted_fault_is_one_change() -> None:
    """The file differs from the sound one, by the replacement that is told, and can be loaded."""
    sound = ast.unparse(ast.parse(SOURCE))
    for fault in faults(SOURCE):
        planted = with_fault(SOURCE, fault)
        assert planted != sound
        compile(planted, "f.py", "exec")
        differing = [pair for pair in zip(sound.splitlines(), planted.splitlines(), strict=False) if pair[0] != pair[1]]
        assert differing and (fault.now == "" or fault.now in planted)


@pytest.mark.parametrize("name", ["training/flow.py", "training/stages/optimiser.py", "discriminator/losses.py"])
def test_every_fault_of_a_real_file_can_be_planted(name: str) -> None:
    source = (ROOT / name).read_text()
    found = faults(source)
    assert len(found) > 50 and len({(fault.path, fault.now) for fault in found}) == len(found)
    for fault in found:
        compile(with_fault(source, fault), name, "exec")
