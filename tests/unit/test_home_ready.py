"""The answer to the relay's question: the word, how long it holds, and a server that nobody can keep busy."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from home import ready, verdict
from home.ready import LONGEST, MOST, answer, current_word, run
from home.room import LEAST_FREE
from home.status import Readiness
from home.verdict import Asked, answered, judge, obvious_fault, own_slice
from home.word import OLD, UP, down, word_of
from stack.stack import Stack
from tests.unit.stack_samples import COMPONENTS

GOOD = Readiness(True, ())
BAD = Readiness(False, ("the data disk is full: 0 MB\n are free",))


@pytest.mark.parametrize(
    ("question", "word", "expected"),
    [
        (b"?\n", "up", b"up\n"),
        (b"\n", "down#stale", b"down#stale\n"),
        (b"?234567890\n", "up", b"up        \n"),
        (b"x" * 4095 + b"\n", "up", b"up" + b" " * 4093 + b"\n"),
    ],
)
def test_an_answer_is_as_long_as_the_question(question: bytes, word: str, expected: bytes) -> None:
    assert answer(question, word) == expected


@pytest.mark.parametrize("reason", ["up", "a\nup", "x, up ready", "ready\r\n100%", "é" * 200, "a" * 200])
def test_no_reason_is_taken_for_another_word(reason: str) -> None:
    word = down(reason)
    assert word.startswith("down#")
    assert len(word) <= 65
    assert not set(word[5:]) & set("\r\n,%#")
    assert word.isascii()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("100.0 up\n", "up"),
        ("100.0 down#full\n", "down#full"),
        (f"{105.0 - OLD} up\n", "up"),
        (f"{104.9 - OLD} up\n", "down#stale"),
        ("105.1 up\n", "down#stale"),  # of another start
        ("100.0 \n", "down#stale"),
        ("", "down#unknown"),
        ("nan up\n", "down#stale"),
        ("up\n", "down#unknown"),
    ],
)
def test_a_verdict_holds_for_a_while(line: str, expected: str) -> None:
    assert word_of(line, 105.0) == expected


def test_no_file_is_no_yes(tmp_path: Path) -> None:
    assert current_word(tmp_path / "word") == "down#unknown"
    (tmp_path / "word").write_text(f"{time.monotonic()} up\n")
    assert current_word(tmp_path / "word") == UP
    (tmp_path / "word").write_bytes(b"\xff\xfe")
    assert current_word(tmp_path / "word") == "down#unknown"


def test_nothing_is_well_before_somebody_was_asked() -> None:
    assert judge(Asked(), None, 1.0)[1] == "down#not asked yet"


def test_good_news_is_asked_for_seldom_and_bad_news_often() -> None:
    good = answered(Asked(begun=1.0), GOOD, 2.0)
    assert (good.word, good.next, good.begun) == (UP, 32.0, None)
    bad = answered(Asked(begun=1.0), BAD, 2.0)
    assert (bad.word, bad.next) == ("down#the data disk is full: 0 MB are free", 7.0)


def test_an_obvious_fault_counts_at_once_and_until_somebody_was_asked_again() -> None:
    asked = answered(Asked(), GOOD, 2.0)
    asked, word = judge(asked, "postfix does not run", 5.0)
    assert word == "down#postfix does not run"
    asked, word = judge(asked, None, 6.0)
    assert word == "down#postfix does not run"
    assert asked.next <= 6.0
    assert answered(asked, GOOD, 7.0).word == UP


def test_an_answer_from_before_a_fault_is_worth_nothing() -> None:
    asked, _ = judge(Asked(word=UP, begun=4.0), "postfix does not run", 5.0)
    asked = answered(asked, GOOD, 6.0)
    assert asked.word.startswith("down#")
    assert asked.next == 6.0
    assert answered(asked, GOOD, 7.0).word == UP


def test_a_question_that_hangs_is_no_yes() -> None:
    asked = Asked(word=UP, begun=1.0)
    assert judge(asked, None, 20.0)[1] == UP
    assert judge(asked, None, 22.0)[1] == "down#the question hangs"


def _cgroup(folder: Path, name: str, populated: int) -> None:
    (folder / f"{name}.service").mkdir(exist_ok=True)
    (folder / f"{name}.service/cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")


def test_a_service_that_mail_needs_and_that_does_not_run_is_obvious(tmp_path: Path) -> None:
    stack = Stack.load(COMPONENTS)
    for name in ("postfix", "dovecot", "rspamd"):
        _cgroup(tmp_path, name, 1)
    assert obvious_fault(stack, tmp_path, tmp_path) is None
    _cgroup(tmp_path, "rspamd", 0)
    assert obvious_fault(stack, tmp_path, tmp_path) == "rspamd does not run"
    (tmp_path / "postfix.service/cgroup.events").unlink()
    assert "does not run" in (obvious_fault(stack, tmp_path, tmp_path) or "")
    assert obvious_fault(stack, tmp_path, None) is None


def test_a_full_disk_is_obvious(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No such file" in (obvious_fault(Stack(()), tmp_path / "nothing", None) or "")
    monkeypatch.setattr(verdict, "free_room", lambda _: LEAST_FREE)
    assert obvious_fault(Stack(()), tmp_path, None) is None
    monkeypatch.setattr(verdict, "free_room", lambda _: LEAST_FREE - 1)
    assert obvious_fault(Stack(()), tmp_path, None) == "the data disk is full"


def test_the_other_services_are_beside_this_one(tmp_path: Path) -> None:
    _cgroup(tmp_path, "darkpipe-verdict", 1)
    assert own_slice("0::/darkpipe-verdict.service\n", tmp_path) == tmp_path
    assert own_slice("0::/elsewhere\n", tmp_path) is None
    assert own_slice("1:name=systemd:/x\n", tmp_path) is None


def _free_port() -> int:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as made:
        port: int = made.getsockname()[1]
        return port


def _with_server(client: Callable[[int], Awaitable[None]], word: str = UP) -> None:
    async def both() -> None:
        port, stopped = _free_port(), asyncio.Event()
        server = asyncio.create_task(run(lambda: word, stopped, port))
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("::1", port)
                    writer.close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            await client(port)
            stopped.set()
            await server

    asyncio.run(both())


async def _ask(port: int, question: bytes, host: str = "::1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(question)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture(autouse=True)
def _no_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "_FAREWELL", 0.2)


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_both_families_and_both_checks_are_answered(host: str) -> None:
    async def client(port: int) -> None:
        assert await _ask(port, b"?\n", host) == b"up\n"
        long = await _ask(port, b"x" * 4095 + b"\n", host)
        assert len(long) == 4096
        assert long.startswith(b"up ")
        longest = await _ask(port, b"x" * (LONGEST - 1) + b"\n", host)
        assert len(longest) == LONGEST

    _with_server(client)


@pytest.mark.parametrize("question", [b"x" * LONGEST + b"\n", b"x" * 1_000_000])
def test_too_long_a_question_gets_no_answer(question: bytes) -> None:
    async def client(port: int) -> None:
        assert await _ask(port, question) == b""
        assert await _ask(port, b"?\n") == b"up\n"

    _with_server(client)


def test_whoever_is_slow_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "PATIENCE", 0.5)

    async def client(port: int) -> None:
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("::1", port)

        async def drip() -> None:
            try:
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            except ConnectionError:
                return

        dripping = asyncio.create_task(drip())
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert 0.4 < time.monotonic() - begun < 3
        dripping.cancel()
        writer.close()

    _with_server(client)


@pytest.mark.parametrize(("patience", "first"), [(60.0, b""), (0.3, b"up\n")], ids=["kept out", "for long"])
def test_many_who_are_silent_keep_nobody_else_away_for_long(
    monkeypatch: pytest.MonkeyPatch, patience: float, first: bytes
) -> None:
    """With a patience that does not end nobody gets in, with a short one somebody does, on a slow computer, too."""
    monkeypatch.setattr(ready, "PATIENCE", patience)

    async def client(port: int) -> None:
        held = [await asyncio.open_connection("::1", port) for _ in range(MOST)]
        try:
            async with asyncio.timeout(20):
                while (found := await _ask(port, b"?\n")) != first:
                    await asyncio.sleep(0.1)
            if not first:
                assert found == await _ask(port, b"?\n")
        finally:
            for _, writer in held:
                writer.close()

    _with_server(client)


def test_on_its_way_out_it_says_no_to_those_who_ask() -> None:
    async def scenario() -> None:
        port, stopped = _free_port(), asyncio.Event()
        server = asyncio.create_task(run(lambda: UP, stopped, port))
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await _ask(port, b"?\n") == b"up\n"
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            stopped.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            assert await _ask(port, b"?\n") == b"down#stopping\n"
            await server
            with pytest.raises(ConnectionRefusedError):
                await _ask(port, b"?\n")

    asyncio.run(scenario())
