"""Hosts: network namespaces, each with an address, and a wire between them that loses, delays and cuts.

Owns the namespaces, the TUN device of each, and the task that carries the packets: all of them pass through this
process, so that no traffic control and no packet filter is needed, which kernels often lack. A device ends with this
process; namespaces that were left behind by one that was killed are removed before new ones are made.
"""

import ctypes
import fcntl
import os
import random
import signal
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

PREFIX = "parleyhost-"  # of namespaces and devices, whose names have 15 characters at most
NETWORK = "198.18.77"  # of those that are for tests of networks (RFC 2544)
PEOPLE = "us"  # the host that the tests run on, which is the machine itself
NAMESPACES = Path("/run/netns")
LOCK = Path("/tmp/parleyhost.lock")
NEW_NETWORK, SET_INTERFACE, TUN, NO_HEADER = 0x40000000, 0x400454CA, 0x0001, 0x1000  # of <sched.h>, <linux/if_tun.h>
PACKET = 65536  # bytes


def missing() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    name = PREFIX + "try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except FileNotFoundError:
        return "there is no `ip` (iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.decode().strip()}"
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def enter(host: str) -> None:
    """Move this thread, and with that all that it starts, into a host's namespace."""
    with (NAMESPACES / f"{PREFIX}{host}").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def remove_all() -> None:
    """What a run left behind that was killed, with the processes that are still in there."""
    for namespace in NAMESPACES.glob(f"{PREFIX}*"):
        listed = subprocess.run(["ip", "netns", "pids", namespace.name], capture_output=True, text=True, check=False)
        for pid in listed.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", namespace.name)


class Link:
    """One direction of the way from one host to another."""

    is_cut = False
    delay = 0.0  # seconds
    loss = 0.0  # of 1

    def heal(self) -> None:
        self.is_cut, self.delay, self.loss = False, 0.0, 0.0


class Network:
    """Made by `open_network`. Hosts have addresses by their order, from 1 on."""

    def __init__(self, hosts: Sequence[str], choice: random.Random) -> None:
        self._numbers = {host: number for number, host in enumerate(hosts, 1)}
        self._choice = choice
        self._devices: dict[int, int] = {}  # descriptors, by the host's number
        self._links = {(one, other): Link() for one in self._numbers for other in self._numbers if one != other}
        self._by_number = {
            (self._numbers[one], self._numbers[other]): link for (one, other), link in self._links.items()
        }
        self.carried = self.lost = 0  # packets

    def address(self, host: str) -> str:
        return f"{NETWORK}.{self._numbers[host]}"

    @staticmethod
    def command(host: str) -> list[str]:
        """What to put before a command that is to run on that host."""
        return ["nsenter", f"--net={NAMESPACES / f'{PREFIX}{host}'}", "--"]

    def link(self, one: str, other: str) -> Link:
        """From one to the other."""
        return self._links[one, other]

    def both(self, one: str, other: str) -> tuple[Link, Link]:
        return self.link(one, other), self.link(other, one)

    def heal(self) -> None:
        for link in self._links.values():
            link.heal()

    def add_hosts(self) -> None:
        for host, number in self._numbers.items():
            name = f"{PREFIX}{host}"
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._devices[number] = device
            fcntl.ioctl(device, SET_INTERFACE, struct.pack("16sH22x", name.encode(), TUN | NO_HEADER))
            within = []
            if host != PEOPLE:
                _ip("netns", "add", name)
                _ip("link", "set", name, "netns", name)
                within = ["-netns", name]
                _ip(*within, "link", "set", "lo", "up")
            _ip(*within, "address", "add", f"{self.address(host)}/24", "dev", name)
            _ip(*within, "link", "set", name, "up")

    def close(self) -> None:
        for device in self._devices.values():
            os.close(device)
        self._devices = {}
        remove_all()

    # -- the wire ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry packets until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in self._devices:
                waiting, due = trio.open_memory_channel[tuple[float, int, bytes]](100_000)
                nursery.start_soon(self._read, number, waiting)
                nursery.start_soon(self._write_later, due)
            task_status.started()

    async def _read(self, source: int, later: "trio.MemorySendChannel[tuple[float, int, bytes]]") -> None:
        device = self._devices[source]
        while True:
            await trio.lowlevel.wait_readable(device)
            with suppress(BlockingIOError):
                while packet := os.read(device, PACKET):
                    target = packet[19]  # of an IPv4 address, its last byte
                    link = self._by_number.get((source, target)) if packet[0] >> 4 == 4 else None
                    if link is None:
                        continue  # for everyone, or IPv6
                    if link.is_cut or self._choice.random() < link.loss:
                        self.lost += 1
                        continue
                    self.carried += 1
                    if link.delay:
                        with suppress(trio.WouldBlock):  # a full queue drops, as a router's does
                            later.send_nowait((trio.current_time() + link.delay, target, packet))
                    else:
                        self._write(target, packet)

    async def _write_later(self, packets: "trio.MemoryReceiveChannel[tuple[float, int, bytes]]") -> None:
        async for due, target, packet in packets:
            await trio.sleep_until(due)  # the delay of the link
            self._write(target, packet)

    def _write(self, target: int, packet: bytes) -> None:
        with suppress(OSError):  # its device is full, or goes down
            os.write(self._devices[target], packet)


@contextmanager
def open_network(hosts: Sequence[str], seed: int = 0) -> Iterator[Network]:
    """Hosts of these names, of which PEOPLE is this one. One run at a time; others wait. Its `run` is the wire."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_all()
        network = Network(hosts, random.Random(seed))
        try:
            network.add_hosts()
            yield network
        finally:
            network.close()
