"""The pre-flight of the relay: each thing that keeps mail away is found, and nothing is claimed that was not seen."""

from __future__ import annotations

import json
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from home import preflight_world, smtp_call
from home.block_lists import BLOCK_LISTS, ask_list, ask_lists
from home.dns_judges import Outcome
from home.dns_records import RelayAddresses
from home.preflight import Looked, Step, Visit, World, preflight
from home.preflight_command import lines
from home.preflight_world import call_relay, fingerprint, latest_visit, parse_visit
from home.smtp_call import Call, CallError, call, call_as
from stack.certificate import ensure_certificate
from tests.unit.dns_samples import RELAY, REVERSE, FakeDns, Zone, accounts, needed, published
from tests.unit.stack_samples import REPOSITORY

ADDRESS = IPv4Address("203.0.113.7")
RECORDS = needed(accounts("example.com"))
MX = "mx.example.com"
OURS = "aa" * 32
VISIT = Visit(datetime(2026, 11, 24, 12, tzinfo=UTC), "mail.example.net [8.8.8.8]")

ZEN, SPAMCOP, PSBL = BLOCK_LISTS


def _listing(listed: str = "") -> Zone:
    """Block lists that work; one of them may have the relay's address."""
    zone: Zone = {(f"2.0.0.127.{each.zone}", "A"): ("127.0.0.2",) for each in BLOCK_LISTS}
    if listed:
        zone[f"7.113.0.203.{listed}", "A"] = ("127.0.0.4",)
        zone[f"7.113.0.203.{listed}", "TXT"] = ("see https://lists.example",)
    return zone


def _world(**more: Any) -> World:
    zone = published(RECORDS.records) | _listing()
    for number, domain in enumerate(("a.example", "b.example")):
        zone[domain, "MX"] = (f"20 other.{domain}", f"5 mail.{domain}")
        zone[f"mail.{domain}", "A"] = (f"198.51.100.{number}",)
    good = World(
        dns=FakeDns(zone),
        call_out=lambda address, port: Call("mail.example.net ESMTP", seen_as="203.0.113.7"),
        call_in=lambda address, port: Call(f"{MX} ESMTP", certificate=OURS),
        visit=lambda: None,
        certificate=OURS,
        targets=("a.example", "b.example"),
    )
    return replace(good, **more)


def _steps(world: World, relay: RelayAddresses = RELAY) -> dict[Step, Looked]:
    return {each.step: each for each in preflight(RECORDS, relay, MX, world)}


def _refuse(text: str, *ports: int) -> Callable[[str, int], Call]:
    def answer(_address: str, port: int) -> Call:
        if not ports or port in ports:
            raise CallError(text)
        return Call(f"{MX} ESMTP", certificate=OURS)

    return answer


def test_a_relay_that_works_is_good_in_each_step() -> None:
    steps = preflight(RECORDS, RELAY, MX, _world())
    assert {each.outcome for each in steps} == {Outcome.GOOD}
    assert {each.step for each in steps} == set(Step)
    assert all(line.startswith("good ") for line in lines(steps, ()))


def test_port_25_that_is_blocked_towards_the_world_is_found() -> None:
    steps = _steps(_world(call_out=_refuse("no answer within 20 s")))
    assert steps[Step.PORT_25_OUT].outcome is Outcome.WRONG
    assert "mail.a.example: no answer within 20 s" in steps[Step.PORT_25_OUT].text
    assert steps[Step.SENDER_ADDRESS].outcome is Outcome.UNKNOWN


def test_one_server_that_answers_is_enough() -> None:
    def call_out(address: str, _port: int) -> Call:
        if address == "198.51.100.0":
            raise CallError("it says 554 no")
        return Call("b ESMTP", seen_as="203.0.113.7")

    step = _steps(_world(call_out=call_out))[Step.PORT_25_OUT]
    assert step.outcome is Outcome.GOOD
    assert step.text == "mail.b.example answers (mail.a.example: it says 554 no)"


def test_a_target_that_cannot_be_looked_up_is_told() -> None:
    step = _steps(_world(targets=("nobody.example",)))[Step.PORT_25_OUT]
    assert step.outcome is Outcome.WRONG
    assert "nobody.example: has no mail server" in step.text


def test_mail_that_leaves_from_another_address_is_found() -> None:
    steps = _steps(_world(call_out=lambda address, port: Call("x", seen_as="203.0.113.99")))
    assert steps[Step.SENDER_ADDRESS].outcome is Outcome.WRONG
    assert "it is 203.0.113.99, and the relay's is 203.0.113.7" in steps[Step.SENDER_ADDRESS].text


def test_servers_that_do_not_say_who_calls_prove_nothing() -> None:
    steps = _steps(_world(call_out=lambda address, port: Call("x")))
    assert steps[Step.PORT_25_OUT].outcome is Outcome.GOOD
    assert steps[Step.SENDER_ADDRESS].outcome is Outcome.UNKNOWN


def test_a_home_that_may_not_call_port_25_knows_nothing_of_it_but_sees_its_own_tls() -> None:
    steps = _steps(_world(call_in=_refuse("no answer within 20 s", 25)))
    assert steps[Step.PORT_25_IN].outcome is Outcome.UNKNOWN
    assert "nc -v 203.0.113.7 25" in steps[Step.PORT_25_IN].remedy
    assert steps[Step.TLS].outcome is Outcome.GOOD
    assert Step.NAME not in steps


def test_a_visitor_from_the_world_proves_more_than_a_call_from_home() -> None:
    steps = _steps(_world(call_in=_refuse("no answer within 20 s", 25), visit=lambda: VISIT))
    assert steps[Step.PORT_25_IN].outcome is Outcome.GOOD
    assert "mail.example.net [8.8.8.8] came in through it on 2026-11-24 at 12:00 UTC" in steps[Step.PORT_25_IN].text


def test_a_relay_that_answers_nowhere_is_wrong_whoever_came_before() -> None:
    steps = _steps(_world(call_in=_refuse("Connection refused"), visit=lambda: VISIT))
    assert steps[Step.PORT_25_IN].outcome is Outcome.WRONG
    assert steps[Step.TLS].outcome is Outcome.UNKNOWN


def test_somebody_in_between_is_found() -> None:
    steps = _steps(_world(call_in=lambda address, port: Call("mx.elsewhere ESMTP", certificate="bb" * 32)))
    assert steps[Step.TLS].outcome is Outcome.WRONG
    assert steps[Step.NAME].outcome is Outcome.WRONG
    assert "calls itself mx.elsewhere" in steps[Step.NAME].text


def test_a_ptr_record_of_the_provider_is_found() -> None:
    world = _world()
    assert isinstance(world.dns, FakeDns)
    world.dns.world[REVERSE, "PTR"] = ("static-7.provider.example",)
    step = _steps(world)[Step.PTR]
    assert step.outcome is Outcome.WRONG
    assert "static-7.provider.example" in step.text


def test_without_an_address_only_the_way_out_is_looked_at() -> None:
    steps = preflight(needed(accounts("example.com"), RelayAddresses()), RelayAddresses(), MX, _world())
    assert [each.step for each in steps] == [Step.PORT_25_OUT, Step.SENDER_ADDRESS]


@pytest.mark.parametrize(("zone", "outcome"), [(ZEN.zone, Outcome.WRONG), (PSBL.zone, Outcome.WARNING)])
def test_an_address_on_a_block_list_is_found(zone: str, outcome: Outcome) -> None:
    found = {each.zone: verdict for each, verdict in ask_lists(ADDRESS, FakeDns(_listing(zone)).resolve)}
    assert found[zone].outcome is outcome
    assert found[zone].text == "203.0.113.7 is on it (127.0.0.4): see https://lists.example"
    assert {verdict.outcome for name, verdict in found.items() if name != zone} == {Outcome.GOOD}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({("2.0.0.127.zen.spamhaus.org", "A"): ()}, "does not know 127.0.0.2"),
        ({("2.0.0.127.zen.spamhaus.org", "A"): ("127.255.255.254",)}, "does not want to answer"),
        # The domain of a list that has ended, which somebody has bought.
        ({("2.0.0.127.zen.spamhaus.org", "A"): ("198.51.100.1",)}, "does not know 127.0.0.2"),
        ({("1.0.0.127.zen.spamhaus.org", "A"): ("127.0.0.2",)}, "has 127.0.0.1"),
    ],
)
def test_a_list_that_does_not_show_that_it_works_knows_nothing(change: Zone, text: str) -> None:
    # Had it been trusted, the address would be on it.
    verdict = ask_list(ZEN, ADDRESS, FakeDns(_listing(ZEN.zone) | change).resolve)
    assert verdict.outcome is Outcome.UNKNOWN
    assert text in verdict.text


def test_a_list_that_cannot_be_asked_knows_nothing() -> None:
    verdict = ask_list(SPAMCOP, ADDRESS, FakeDns({}, errors={"resolver": "SERVFAIL"}).resolve)
    assert verdict.outcome is Outcome.UNKNOWN


def test_what_a_server_says_gives_the_terminal_no_orders() -> None:
    """Whoever stands between is asked for a name."""
    banner = Call("mx\x1b]0;root\a.elsewhere ESMTP", certificate="bb" * 32)
    world = _world(call_in=lambda address, port: banner, call_out=_refuse("it says 554 \x1b[2Jno"))
    shown = "\n".join(lines(preflight(RECORDS, RELAY, MX, world), ()))
    assert "calls itself mx\N{REPLACEMENT CHARACTER}]0;root" in shown
    assert not {"\x1b", "\a"} & set(shown)


def test_people_are_told_what_a_step_proves_and_what_to_do() -> None:
    shown = "\n".join(lines(preflight(RECORDS, RELAY, MX, _world(call_out=_refuse("no"))), ("One thing is unknown.",)))
    assert shown.startswith("UNKNOWN  One thing is unknown.\nWRONG    port 25 to the world, through the tunnel: ")
    assert "do: is the tunnel up" in shown


@contextmanager
def _server(*answers: bytes, certificate: Path | None = None, wrapped: bool = False) -> Iterator[int]:
    """A mail server for one visitor: a greeting, and an answer for each line; TLS begins behind `220 go`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate:
        context.load_cert_chain(certificate)

    def serve() -> None:
        connection, _ = listener.accept()
        if wrapped:
            connection = context.wrap_socket(connection, server_side=True)
        try:
            for number, answer in enumerate(answers):
                if number:
                    connection.recv(1000)
                connection.sendall(answer)
                if answer == b"220 go\r\n":
                    connection = context.wrap_socket(connection, server_side=True)
            connection.recv(1000)
        finally:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


GREETING, HELLO = (
    b"220 mx.example.com ESMTP\r\n",
    b"250-mx.example.net at your service, [203.0.113.7]\r\n250 STARTTLS\r\n",
)


def test_a_call_gives_what_the_server_says() -> None:
    with _server(GREETING, HELLO) as port:
        assert call("127.0.0.1", port, MX) == Call("mx.example.com ESMTP", "203.0.113.7")


def test_a_call_shows_the_certificate_behind_starttls(tmp_path: Path) -> None:
    file = tmp_path / "mail.pem"
    ensure_certificate(file, [MX])
    with _server(GREETING, HELLO, b"220 go\r\n", certificate=file) as port:
        assert call("127.0.0.1", port, MX, starttls=True).certificate == fingerprint(file)


def test_a_call_with_tls_from_the_first_octet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mail.pem"
    ensure_certificate(file, [MX])
    with _server(GREETING, HELLO, certificate=file, wrapped=True) as port:
        monkeypatch.setattr(smtplib, "SMTP_SSL_PORT", port)
        found = call("127.0.0.1", port, MX)
    assert (found.banner, found.certificate) == ("mx.example.com ESMTP", fingerprint(file))


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ((b"554 go away\r\n",), "it says 554 go away"),
        ((b"SSH-2.0-OpenSSH\r\n",), "it says -1"),
        ((), "no answer within"),
        ((GREETING, b"250 mx.example.com\r\n"), "STARTTLS"),
    ],
)
def test_who_is_no_mail_server_is_told(answers: tuple[bytes, ...], text: str) -> None:
    with _server(*answers) as port, pytest.raises(CallError, match=text):
        call("127.0.0.1", port, MX, starttls=True, patience=0.3)


def test_nobody_at_the_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CallError, match="refused"):
        call("127.0.0.1", port, MX)


def test_another_user_calls_by_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from home.smtp_call import main; main(sys.argv[1:])"
    )
    monkeypatch.setattr(smtp_call, "_RUN", (sys.executable, "-I", "-c", program))
    # Without the right to become somebody else, the rest is what counts.
    monkeypatch.setattr(subprocess, "run", _without_user(subprocess.run))
    with _server(GREETING, HELLO) as port:
        assert call_as("postfix", "127.0.0.1", port, MX).seen_as == "203.0.113.7"
    with pytest.raises(CallError, match="refused"):
        call_as("postfix", "127.0.0.1", port, MX)


def _without_user(run: Any) -> Any:
    def started(*arguments: Any, user: str, group: str, **options: Any) -> Any:
        assert user == group == "postfix"
        return run(*arguments, **{name: value for name, value in options.items() if name != "extra_groups"})

    return started


def test_an_unknown_user_is_told() -> None:
    with pytest.raises(CallError):
        call_as("nobody-has-this-name", "127.0.0.1", 25, MX)


def test_the_relay_is_called_on_port_25_only_after_the_firewall_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1, "", "Error: No such file or directory")

    monkeypatch.setattr(preflight_world, "_run", run)
    with pytest.raises(CallError, match="the firewall cannot be opened for it: Error"):
        call_relay("203.0.113.7", 25, MX)
    assert ran == [["nft", "add", "element", "inet", "darkpipe", "own_relay", "{ 203.0.113.7 timeout 60s }"]]
    with pytest.raises(ValueError, match="does not appear"):
        call_relay("1.2.3.4 }; flush ruleset", 25, MX)


@pytest.mark.parametrize(
    ("message", "client"),
    [
        ("connect from mail.example.net[8.8.8.8]", "mail.example.net [8.8.8.8]"),
        ("connect from unknown[2a00:1450::1]", "unknown [2a00:1450::1]"),
        ("connect from unknown[192.168.1.7]", None),
        ("connect from localhost[::1]", None),
        ("disconnect from mail.example.net[8.8.8.8]", None),
        ([1, 2], None),
    ],
)
def test_a_visitor_is_somebody_from_the_world(message: object, client: str | None) -> None:
    entry = json.dumps({"MESSAGE": message, "__REALTIME_TIMESTAMP": "1795608000000000"})
    found = parse_visit(f"{entry}\n")
    assert (found.client if found else None) == client
    if found:
        assert found.at == datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(("paired", "since"), [(0, 9_395_200), (9_999_000, 9_999_000), (1_000, 9_395_200)])
def test_who_came_through_the_relay_before_proves_nothing_of_this_one(
    monkeypatch: pytest.MonkeyPatch, paired: int, since: int
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(preflight_world, "_run", run)
    assert latest_visit(paired, lambda: 10_000_000.0) is None
    assert [argument for argument in ran[0] if argument.startswith("--since=")] == [f"--since=@{since}"]


def test_a_journal_without_visitors_gives_none() -> None:
    assert parse_visit("") is None
    assert parse_visit("-- No entries --\n") is None
