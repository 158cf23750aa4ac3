"""The system around the mail: units, firewall, configuration, first start."""

from __future__ import annotations

import html
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPSConnection

import pytest

from tests import mail
from tests.machine.conftest import PASSWORD, SEED
from tests.machine.machine import CLIENT_ADDRESS, HOME_ADDRESS, HOME_ADDRESS_6, Client, Machine, wait_for

_FAULTS_OF_TESTS = re.compile(
    r"SASL \w+ authentication failed|AUTH command rate limit exceeded|SSL_accept|TLS library problem"
    r"|queue file size limit exceeded|mail_stream_cleanup: close error"
    r"|Illegal address syntax|haproxy: Client disconnected|haproxy read|proxy protocol"
    r"|TCP map 127\.0\.0\.1|tcp:127\.0\.0\.1:\d+ lookup error|_canonical_maps map lookup problem"
)
"""What Postfix warns of while postsrsd is stopped, or when it refuses a password, an old TLS, a message that is too
large, an address that is none or a client that should have said who it is: tests make it do so."""


def test_no_unit_failed(device: Machine) -> None:
    assert device.failed_units() == []


def test_all_services_run(device: Machine) -> None:
    names = [
        "postfix",
        "dovecot",
        "postsrsd",
        "unbound",
        "nftables",
        "darkpipe-firewall",
        "darkpipe-apply",
        "darkpipe-tunnel",
        "darkpipe-verdict",
        "darkpipe-ready",
        "darkpipe-journal",
    ]
    for name in names:
        assert device.run("systemctl", "is-active", f"{name}.service", check=False).strip() == "active", name


def test_no_ordering_cycle_and_no_complaints_about_units(device: Machine) -> None:
    messages = device.run("journalctl", "--boot", "--no-pager", "_PID=1")
    assert "ordering cycle" not in messages
    for folder in ("/etc/systemd/system", "/usr/lib/systemd/system"):
        assert not [row for row in messages.splitlines() if f"{folder}/" in row and re.search("Unknown|ignoring", row)]


def test_daemons_have_no_complaints(device: Machine) -> None:
    for unit in ("postfix", "dovecot", "postsrsd", "rspamd", "valkey", "unbound"):
        messages = device.run("journalctl", "--boot", "--no-pager", "--output=cat", f"--unit={unit}.service")
        bad = [
            row
            for row in messages.splitlines()
            if re.search(r"\b(warning|error|fatal|panic)\b", row, re.IGNORECASE) and not _FAULTS_OF_TESTS.search(row)
        ]
        assert "\n".join(bad) == ""
    assert "warning" not in device.run("postconf", "-n")


@pytest.mark.parametrize("address", [HOME_ADDRESS, HOME_ADDRESS_6])
def test_only_the_ports_of_the_stack_are_open(device: Machine, client: Client, address: str) -> None:
    open_ports = {25, 465, 587, 993, 4190}
    assert client.reachable(open_ports, address) == open_ports
    # Something listens behind each of these, so that it is the firewall that answers.
    listen = "import http.server,sys; s=http.server.ThreadingHTTPServer; s.address_family=10"
    serve = "s(('::', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"
    ports = (143, 5353, 8080)
    for port in ports:
        device.run("systemd-run", "--quiet", f"--unit=test-{port}", "python3", "-c", f"{listen}; {serve}", str(port))
    try:
        for port in ports:
            device.run("timeout", "20", "sh", "-c", f"until ss -ltn | grep -q :{port}; do sleep 0.1; done")
        services = (53, 2465, 2525, 2587, 2993, 10001, 10002, 10026, 10027)
        assert client.reachable((*ports, *services), address) == set()
    finally:
        for port in ports:
            device.run("systemctl", "stop", f"test-{port}.service")


def test_nothing_leaves_by_smtp(device: Machine, client: Client) -> None:
    # The other computer would take the connection: it is the output chain that refuses.
    listener = client.call(_listen, 25)
    try:
        script = f"import socket; socket.create_connection(('{CLIENT_ADDRESS}', 25), 3)"
        assert "Error" in device.run("python3", "-c", script, check=False)
        rules = device.run("nft", "list", "chain", "inet", "darkpipe", "output")
        assert "dport 25 reject" in rules
    finally:
        listener.close()


def test_unbound_answers_locally_and_nobody_else(device: Machine, client: Client) -> None:
    script = "import socket; print(socket.getaddrinfo('localhost.', 80)[0][4][0])"
    assert "127.0.0.1" in device.run("python3", "-c", script) or "::1" in device.run("python3", "-c", script)
    listening = device.run("ss", "--listening", "--numeric", "--no-header", "--tcp", "--udp")
    addresses = {row.split()[4] for row in listening.splitlines() if row.split()[4].endswith(":53")}
    assert addresses == {"127.0.0.1:53", "[::1]:53"}
    assert not client.can_connect(53)


def test_the_seed_is_taken_over_and_wiped(device: Machine) -> None:
    assert list(device.boot_partition.iterdir()) == []
    site = device.data / "darkpipe/site.yaml"
    assert site.read_text() == SEED
    assert stat.S_IMODE(site.stat().st_mode) == 0o600


def test_a_generated_password_is_shown_once_on_the_console_and_in_no_log(new_machine: Callable[[str], Machine]) -> None:
    machine = new_machine(SEED).start()
    found = re.findall(r"bob@example\.org +([a-z-]{24})\b", machine.console)
    assert len(found) == 1
    with machine.lan() as client:
        client.call(mail.mailbox, 993, "bob@example.org", found[0], host=HOME_ADDRESS).logout()
    assert found[0] not in machine.run("journalctl", "--no-pager", "--output=export")
    assert machine.run("grep", "-rl", found[0], "/data", "/var", "/run", check=False).strip() == ""
    machine.restart()
    assert found[0] not in machine.console
    assert "bob@example.org" not in machine.console
    with machine.lan() as client:
        client.call(mail.mailbox, 993, "bob@example.org", found[0], host=HOME_ADDRESS).logout()
    machine.stop()


def test_secrets_are_readable_for_their_daemon_only(device: Machine) -> None:
    modes = device.run(
        "stat",
        "--format=%n %a %U:%G",
        "/data/tls/mail.pem",
        "/data/srs/key",
        "/data/darkpipe/site.yaml",
        "/data/darkpipe/accounts.json",
        "/etc/dovecot/users",
    )
    assert modes.splitlines() == [
        "/data/tls/mail.pem 600 root:root",
        "/data/srs/key 600 root:root",
        "/data/darkpipe/site.yaml 600 root:root",
        "/data/darkpipe/accounts.json 600 root:root",
        "/etc/dovecot/users 640 root:dovecot",
    ]
    denied = device.run(
        "setpriv", "--reuid=postfix", "--regid=postfix", "--clear-groups", "cat", "/etc/dovecot/users", check=False
    )
    assert "Permission denied" in denied


def test_a_second_apply_changes_nothing(device: Machine) -> None:
    tree = device.run("readlink", "/data/darkpipe/config/current")
    started = device.run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "postfix", "dovecot")
    assert "was in force already" in device.run("darkpipe", "apply")
    assert device.run("readlink", "/data/darkpipe/config/current") == tree
    assert device.run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "postfix", "dovecot") == started


def test_a_change_restarts_what_it_concerns_and_is_served(new_machine: Callable[[str], Machine]) -> None:
    machine = new_machine(SEED).start()
    before = machine.run("systemctl", "show", "--property=InvocationID", "--value", "unbound")
    accounts = machine.data / "darkpipe/accounts.json"
    accounts.write_text(accounts.read_text().replace("bob@example.org", "carol@example.org"))
    assert "changed: postfix, rspamd." in machine.run("darkpipe", "apply")
    assert machine.run("systemctl", "show", "--property=InvocationID", "--value", "unbound") == before
    with machine.lan() as client:
        assert client.call(mail.swaks, 25, "a@example.net", "carol@example.org", host=HOME_ADDRESS).returncode == 0
        refused = client.call(mail.swaks, 25, "a@example.net", "bob@example.org", host=HOME_ADDRESS)
        assert "550 5.1.1" in refused.stdout
        client.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS).logout()
    assert machine.failed_units() == []
    machine.stop()


def test_a_refused_configuration_leaves_the_old_one_serving(new_machine: Callable[[str], Machine]) -> None:
    machine = new_machine(SEED).start()
    tree = machine.run("readlink", "/data/darkpipe/config/current")
    (machine.data / "darkpipe/site.yaml").write_text("version: 1\ndomains: []\n")
    output = machine.run("darkpipe", "apply", check=False)
    assert "site.yaml cannot be used" in output
    machine.restart()
    assert machine.failed_units() == ["darkpipe-apply.service"]
    assert machine.run("readlink", "/data/darkpipe/config/current") == tree
    with machine.lan() as client:
        client.call(mail.mailbox, 993, "alice@example.com", PASSWORD, host=HOME_ADDRESS).logout()
    machine.stop()


def test_without_a_seed_the_device_says_what_to_do(new_machine: Callable[[str], Machine]) -> None:
    machine = new_machine("")
    (machine.boot_partition / "darkpipe.yaml.txt").write_text(SEED)
    machine.start()
    assert "DarkPipe has nothing to do yet" in machine.console
    assert "There is a file darkpipe.yaml.txt: is it that one?" in machine.console
    assert "darkpipe.yaml" in machine.console
    assert machine.failed_units() == []
    with machine.lan() as client:
        assert not client.can_connect(25)
        assert "it knows no domain and no mailbox" in _page(client)
    machine.stop()


def _page(client: Client) -> str:
    wait_for(lambda: client.can_connect(443), "the page listens")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def ask() -> str:
        with closing(HTTPSConnection(HOME_ADDRESS, context=context, timeout=30)) as connection:
            connection.request("GET", "/")
            return html.unescape(connection.getresponse().read().decode())

    return client.call(ask)


def test_a_wrong_seed_is_explained_on_the_console_and_left_to_be_mended(new_machine: Callable[[str], Machine]) -> None:
    wrong = SEED.replace("domains: [example.com", "domain: [example.com")
    machine = new_machine(wrong).start()
    assert "domain: [example.com, example.org" in machine.console
    assert "E1" in machine.console
    assert machine.failed_units() == ["darkpipe-apply.service"]
    seed = machine.boot_partition / "darkpipe.yaml"
    assert seed.read_text() == wrong
    with machine.lan() as client:
        page = _page(client)
    assert "line 2: found `domain`" in page, page
    assert "argon2id$v" not in page
    machine.stop()
    seed.write_text(SEED)
    machine.start()
    assert machine.failed_units() == []
    assert not seed.exists()
    machine.stop()


def test_a_restart_keeps_the_journal_and_notes_the_time(device: Machine) -> None:
    boots = int(device.run("sh", "-c", "journalctl --list-boots --no-pager --quiet | grep -c .").strip())
    mark = device.state / "clock"
    mark.touch()
    os.utime(mark, (0, 0))
    before = time.time()
    device.stop()
    assert mark.stat().st_mtime >= int(before)
    device.start()
    assert int(device.run("sh", "-c", "journalctl --list-boots --no-pager --quiet | grep -c .").strip()) == boots + 1
    assert device.run("find", "/run/log/journal", "-name", "*.journal", check=False).strip() == ""


def _listen(port: int) -> socket.socket:
    return socket.create_server((CLIENT_ADDRESS, port))


def test_our_programs_have_the_libraries_that_debian_lacks(device: Machine) -> None:
    """They fit the device's architecture and Python; timeit is a program that runs what it is told."""
    device.run("/usr/libexec/darkpipe-run", "timeit", "--number=1", "import obstore.store, pyrage")


def test_the_page_can_read_forms(device: Machine) -> None:
    """Debian has two packages of nearly one name, and starlette takes one of them."""
    tried = "import starlette.formparsers as forms; assert forms.parse_options_header"
    device.run("/usr/libexec/darkpipe-run", "timeit", "--number=1", tried)
