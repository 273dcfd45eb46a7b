"""tests.mutants: each fault still fits the code, so that `make mutants` plants what it says."""

import pytest

from tests.mutants.__main__ import ROOT, Fault, load


@pytest.mark.parametrize("fault", load(), ids=lambda fault: fault.why[:60])
def test_it_can_be_planted(fault: Fault) -> None:
    """The text that a fault replaces is in its file exactly once."""
    assert fault.fits(ROOT), f"{fault.path} has changed: plant the same fault in its new text"
