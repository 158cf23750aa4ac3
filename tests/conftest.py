"""What all tiers share."""

from __future__ import annotations

import signal
from types import FrameType

import pytest
from hypothesis import settings

# A gate finds the same in the same code. `--hypothesis-profile default` looks for what nobody has seen yet.
settings.register_profile("gate", derandomize=True, database=None)
settings.load_profile("gate")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own, for `./dev test TIER -- OPTION`."""
    parser.addoption(
        "--cold-container", action="store_true", help="build all in a container, with nothing taken from our cache"
    )
    parser.addoption(
        "--encrypted-disk", action="store_true", help="encrypt, cut and unlock a disk in QEMU: a long test"
    )
    parser.addoption(
        "--without-site", action="store_true", help="answer the form of a device without a site in QEMU: a long test"
    )
    parser.addoption("--flaps", type=int, default=50, help="how often home goes away under load (default: 50)")
    parser.addoption(
        "--every-call",
        action="store_true",
        help="walk all system calls of darkpipe apply on a device, and of the drain, no sample",
    )
    parser.addoption("--relay-suite", default="trixie", help="the Debian version of the relay's cloud machine")
    parser.addoption("--relay-architecture", default="amd64", help="the processor of the relay's cloud machine in QEMU")
    parser.addoption(
        "--home-profile", default="x64", help="what --pair, --evening and --encrypted-disk emulate: x64 or raspberrypi"
    )
    parser.addoption("--transport", default="wireguard", help="the tunnel of --pair: wireguard or mtls")
    parser.addoption("--pair", action="store_true", help="emulate both a relay and its home; half an hour")
    parser.addoption("--evening", action="store_true", help="emulate the whole first evening; an hour and more")
    parser.addoption("--seeded", action="store_true", help="with --evening: from a seed that asks nothing")
    parser.addoption("--relay-again", action="store_true", help="let cloud-init make the relay a second time")


def pytest_configure() -> None:
    """Let timeout(1), which sends SIGTERM, end the tests as Ctrl-C does: machines are still switched off."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; a second one must not cut the fixtures' ends
    raise KeyboardInterrupt
