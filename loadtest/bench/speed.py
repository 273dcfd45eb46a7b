"""How fast this machine is now: a fixed piece of work in pure Python, and one in C.

Owns both, and the index: 1.00 is the machine for which the budgets were set (2 cores of an AMD EPYC with nothing else
to do, Python 3.11), and half of that takes twice the time.
"""

import gc
import subprocess
import time

from loadtest.bench.process import compiled

PYTHON_SECONDS, C_SECONDS = 0.066, 0.113  # at 1.00
TIMES = 3  # the best one counts: what disturbs only ever adds
COUNT = 60_000


class _Account:
    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[tuple[int, str]] = []

    def enter(self, amount: int) -> int:
        self.entries.append((amount, f"{self.number}:{amount}"))
        return len(self.entries)


def python() -> float:
    """The index for pure Python: calls, dictionaries, small objects, text."""
    return PYTHON_SECONDS / min(_python_seconds() for _ in range(TIMES))


def c() -> float:
    """The index for C. Raises Unavailable."""
    program = compiled("speed")
    return C_SECONDS / min(float(subprocess.check_output([program]).split()[0]) for _ in range(TIMES))


def _python_seconds() -> float:
    collecting = gc.isenabled()
    gc.disable()  # what else this process holds is not the machine's
    try:
        spent = time.process_time()
        work(COUNT)
        return time.process_time() - spent
    finally:
        if collecting:
            gc.enable()


def work(count: int) -> int:
    """The same for the same count, always."""
    accounts: dict[str, _Account] = {}
    state, total = 1, 0
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2147483648
        name = f"account {state % 997}"
        account = accounts.get(name)
        if account is None:
            account = accounts[name] = _Account(state % 997)
        total += account.enter(state >> 16)
    for account in accounts.values():
        words = ",".join(text for amount, text in sorted(account.entries)).split(":")
        total += len(words) + sum(len(word) for word in words)
    return total
