"""Rendering the shipped templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from model.account_changes import add_alias
from stack.dkim import signing_keys
from stack.render import File, RenderError, render
from stack.stack import Stack
from tests.unit.stack_samples import COMPONENTS, HASH, accounts, sample_stack

CERTIFICATE = PurePosixPath("/data/tls/mail.pem")
KEYS = signing_keys(Path("/data/dkim"), ["example.com", "example.org"])
ACCOUNTS = accounts("  - {address: bob@example.org, quota: 5G, catch_all: [example.org]}\n")


def _shipped() -> Mapping[PurePosixPath, File]:
    return render(Stack.load(COMPONENTS), ACCOUNTS, CERTIFICATE, KEYS)


def _lines(name: str) -> list[str]:
    text = _shipped()[PurePosixPath(name)].content.decode()
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _master() -> list[tuple[str, dict[str, str]]]:
    """The services of master.cf, each with what it sets for itself (`-o name=value`)."""
    services: list[tuple[str, dict[str, str]]] = []
    for line in _lines("postfix/master.cf"):
        if line.startswith(" "):
            name, _, value = line.strip().removeprefix("-o ").partition("=")
            services[-1][1][name] = value
        else:
            services.append((line, {}))
    return services


def test_every_daemon_gets_its_files() -> None:
    assert [str(path) for path in _shipped() if not re.match(r"rspamd/(local|override)\.d/", str(path))] == [
        "dovecot/aliases",
        "dovecot/dovecot.conf",
        "dovecot/quota.conf",
        "dovecot/sieve.conf",
        "dovecot/spam.conf",
        "dovecot/users",
        "nftables/ruleset.nft",
        "postfix/forward_transports",
        "postfix/main.cf",
        "postfix/master.cf",
        "postfix/received_header_checks",
        "postfix/sender_logins",
        "postfix/srs_addresses",
        "postfix/submission_header_checks",
        "postfix/virtual_aliases",
        "postfix/virtual_mailboxes",
        "postsrsd/environment",
        "rspamd/disposable.map",
        "rspamd/freemail.map",
        "rspamd/rspamd.conf",
        "rspamd/rspamd.local.lua",
        "rspamd/sender_logins.map",
        "unbound/unbound.conf",
    ]


def test_nothing_is_left_of_the_templates() -> None:
    for path, file in _shipped().items():
        text = file.content.decode()
        assert "{%" not in text, path
        assert "{{" not in text, path
        assert text.endswith("\n"), path
        assert not [line for line in text.splitlines() if line != line.rstrip()], path


def test_hashes_are_for_dovecot_only() -> None:
    files = _shipped()
    users = files.pop(PurePosixPath("dovecot/users")) if isinstance(files, dict) else None
    assert users == File(users.content if users else b"", 0o640, "dovecot")
    assert all(HASH.encode() not in file.content and file == File(file.content) for file in files.values())


def test_the_password_file_is_dovecots() -> None:
    # passwd-file: user:password:uid:gid:gecos:home:shell:extra
    assert _lines("dovecot/users") == [
        f"alice@example.com:{{ARGON2ID}}{HASH}::::::",
        f"bob@example.org:{{ARGON2ID}}{HASH}::::::userdb_quota_storage_size=5368709120B",
    ]


def test_postfix_knows_domains_mailboxes_and_aliases() -> None:
    main = _lines("postfix/main.cf")
    assert "virtual_mailbox_domains = example.com example.org" in main
    assert "virtual_alias_domains = mx.example.com" in main
    assert "myhostname = mx.example.com" in main
    assert _lines("postfix/virtual_mailboxes") == ["alice@example.com mailbox", "bob@example.org mailbox"]
    found = _lines("postfix/virtual_aliases")
    assert "sales@example.org alice@example.com" in found
    assert found[0] == "@example.org bob@example.org"
    assert "bob@example.org bob@example.org" in found


def test_all_devices_of_a_user_at_home_may_be_connected_at_once() -> None:
    """Through the relay they have one address, the home's. Thunderbird opens five connections; Dovecot lets in ten."""
    (limit,) = (line for line in _lines("dovecot/dovecot.conf") if line.startswith("mail_max_userip_connections"))
    assert int(limit.partition("=")[2]) >= 8 * 5


def test_no_program_that_could_send_outside_is_started() -> None:
    programs = [row.split()[7] for row, _ in _master()]
    assert "lmtp" in programs
    assert not {"relay", "pipe", "local", "virtual"} & set(programs)
    # The one client for SMTP only ever gets mail that is for another port of this Postfix.
    assert [row.split()[0] for row, _ in _master() if row.split()[7] == "smtp"] == ["forward"]
    used = [line for path in _shipped() for line in _lines(str(path)) if re.search(r"\bforward:", line)]
    assert used == ["/@/ forward:[127.0.0.1]:10026"]


def test_with_a_relay_mail_goes_out_by_a_client_of_its_own_and_over_ipv4() -> None:
    files = render(Stack.load(COMPONENTS), ACCOUNTS, CERTIFICATE, KEYS, relayed=True)
    main = files[PurePosixPath("postfix/main.cf")].content.decode().splitlines()
    assert "default_transport = outside" in main
    assert "smtp_tls_security_level = dane" in main
    assert "smtp_dns_support_level = dnssec" in main
    names = [line.partition(" =")[0] for line in main if re.match(r"[a-z]\w* =", line)]
    assert sorted(set(names)) == sorted(names)
    master = files[PurePosixPath("postfix/master.cf")].content.decode()
    clients = re.findall(r"^(\w+) .* smtp\n((?:  .*\n)*)", master, re.MULTILINE)
    assert [name for name, _ in clients] == ["forward", "outside"]
    assert "  -o inet_protocols=ipv4\n" in dict(clients)["outside"]
    # Nothing else depends on it.
    changed = {path for path, file in files.items() if file != _shipped()[path]}
    assert changed == {PurePosixPath("postfix/main.cf"), PurePosixPath("postfix/master.cf")}


def test_only_the_ports_for_mail_apps_know_a_login() -> None:
    servers = {row.split()[0]: options for row, options in _master() if row.split()[7] == "smtpd"}
    assert servers["smtp"] == {}
    assert not [line for line in _lines("postfix/main.cf") if line.startswith("smtpd_sasl_auth_enable")]
    assert servers["submissions"].pop("smtpd_tls_wrappermode") == "yes"
    assert servers["submission"].pop("smtpd_tls_security_level") == "encrypt"
    for name in ("submissions", "submission"):
        assert servers[name].pop("syslog_name") == f"postfix/{name}"
    assert servers["submissions"] == servers["submission"]
    assert servers["submission"]["smtpd_sasl_auth_enable"] == "yes"
    assert servers["submission"]["smtpd_relay_restrictions"] == "permit_sasl_authenticated,reject"
    for name, port in (("submissions", "2465"), ("submission", "2587")):
        assert servers[port].pop("smtpd_upstream_proxy_protocol") == "haproxy"
        assert {**servers[port], **servers[name]} == servers[port]
    assert [name for name, options in servers.items() if "smtpd_sasl_auth_enable" in options] == [
        "submissions",
        "submission",
        "2465",
        "2587",
    ]


def test_a_client_says_who_it_is_on_the_ports_for_the_relay_only() -> None:
    servers = {row.split()[0]: options for row, options in _master() if row.split()[7] == "smtpd"}
    believing = {name for name, options in servers.items() if "smtpd_upstream_proxy_protocol" in options}
    ports = {str(port.port) for port in Stack.load(COMPONENTS).tunnel_ports}
    # One tells whether mail is taken, one is Dovecot's; one more is for the drain, and firewalled in the device itself.
    assert believing == {*ports - {"2500", "2993"}, "127.0.0.1:2526"}
    text = "\n".join(_lines("dovecot/dovecot.conf"))
    assert re.findall(r"port = (\d+)(?:\n +ssl = yes)?\n +haproxy = yes", text) == ["2993"]
    assert text.count("haproxy = yes") == 1


def test_only_mail_with_a_sender_from_elsewhere_is_forwarded() -> None:
    rules = [line.rsplit(" ", 1) for line in _lines("postfix/forward_transports")]
    found = {}
    for sender in ("a@example.com", "a@EXAMPLE.org", "srs0=x@mx.example.com", "a@example.net", "a@myexample.com", "<>"):
        found[sender] = next((to for rule, to in rules if re.search(rule.strip("/"), sender, re.IGNORECASE)), None)
    outside = "forward:[127.0.0.1]:10026"
    assert list(found.values()) == ["DUNNO", "DUNNO", "DUNNO", outside, outside, None]


def test_headers_are_touched_in_submitted_mail_only() -> None:
    cleanups = {row.split()[0]: options for row, options in _master() if row.split()[7] == "cleanup"}
    # Of what comes from elsewhere, only what claims to be our drain's mark goes.
    checks = {"header_checks", "nested_header_checks", "mime_header_checks"}
    assert cleanups["cleanup"].keys() == {"message_size_limit", *checks}
    assert _lines("postfix/received_header_checks") == ["/^DarkPipe-Item[[:space:]]*:/ IGNORE"]
    assert cleanups["drained-cleanup"].keys() == {"message_size_limit"}
    users = [
        row.split()[0] for row, options in _master() if options.get("cleanup_service_name") == "submission-cleanup"
    ]
    assert users == ["submissions", "submission", "2465", "2587"]
    assert cleanups["submission-cleanup"]["always_add_missing_headers"] == "yes"
    assert {name for name, options in cleanups.items() if "delay_warning_time" in options} == {"submission-cleanup"}
    own = "always_add|header_checks|delay_warning"
    assert not [line for line in _lines("postfix/main.cf") if re.match(own, line)]


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        (
            "from a (b [::1])\n\t(using TLSv1.3)\n\tby mx.example.com (Postfix) with ESMTPSA id A\n\tfor <c@d>; date",
            "ESMTPSA id A\n\tfor <c@d>; date",
        ),
        ("from a (b [::1])\n\tby mx.example.com (Postfix) with UTF8SMTPSA id A; date", "UTF8SMTPSA id A; date"),
        ("from a (b [::1])\n\tby mx.example.com (Postfix) with ESMTPS id A; date", None),
        ("from a (b [::1])\n\tby mx.example.net (Postfix) with ESMTPSA id A; date", None),
        ("from a (b [::1])\n\tby mxxexample.com (Postfix) with ESMTPSA id A; date", None),
        ("by mx.example.com (Postfix) with ESMTPSA id A; date", None),
    ],
)
def test_where_a_user_is_goes_out_of_received(received: str, kept: str | None) -> None:
    pattern, action = _lines("postfix/submission_header_checks")
    # POSIX and Python write one class differently; a dot is any character in Postfix (regexp_table(5), flag m).
    expression = pattern.strip("/").replace("[[:space:]]", r"\s")
    found = re.search(expression, f"Received: {received}", re.DOTALL)
    assert (found[1] if found else None) == kept
    assert action == "    REPLACE Received: by mx.example.com (Postfix) with $1"


def test_postfix_knows_who_may_send_as_whom() -> None:
    logins = _lines("postfix/sender_logins")
    assert "alice@example.com alice@example.com" in logins
    assert "sales@example.org alice@example.com" in logins
    assert "bob@example.org bob@example.org" in logins
    assert "@example.org bob@example.org" in logins


def test_several_names_stand_in_one_line() -> None:
    changed = add_alias(ACCOUNTS, "family@example.com", ["alice@example.com", "bob@example.org", "x@example.net"])
    files = render(Stack.load(COMPONENTS), changed, CERTIFICATE, KEYS)
    for name, names in (
        ("virtual_aliases", "alice@example.com, bob@example.org, x@example.net"),
        ("sender_logins", "alice@example.com, bob@example.org"),
    ):
        lines = files[PurePosixPath("postfix", name)].content.decode().splitlines()
        assert f"family@example.com {names}" in lines


def test_the_firewall_opens_the_ports_of_the_stack_and_is_else_the_one_of_the_boot() -> None:
    text = "\n".join(_lines("nftables/ruleset.nft"))
    tunnel = re.search(r"^\tchain tunnel {\n(.*?)^\t}\n", text, re.MULTILINE | re.DOTALL)
    assert tunnel
    assert re.findall(r"^\t\t(.*)$", tunnel[1], re.MULTILINE) == [
        "fib daddr . iif type != local drop",
        "ct state vmap { established : accept, related : accept, invalid : drop }",
        "fib saddr . iif oif missing drop",
        "icmp type echo-request accept",
        "icmpv6 type echo-request accept",
        'tcp dport 2465 accept comment "tunnel-submissions"',
        'tcp dport 2500 accept comment "tunnel-ready"',
        'tcp dport 2525 accept comment "tunnel-smtp"',
        'tcp dport 2587 accept comment "tunnel-submission"',
        'tcp dport 2993 accept comment "tunnel-imaps"',
    ]
    to_relay = re.search(r"^\tchain to_relay {\n(.*?)^\t}\n", text, re.MULTILINE | re.DOTALL)
    assert to_relay
    assert re.findall(r"^\t\t(.*)$", to_relay[1], re.MULTILINE) == [
        "ct state established,related accept",
        "meta nfproto ipv6 meta skuid darkpipe-drain tcp dport 2600 accept",
        "meta nfproto ipv6 meta skuid root tcp dport 2601 accept",
        "meta nfproto ipv4 meta skuid postfix tcp dport 25 accept",
        "reject with icmpx admin-prohibited",
    ]
    own_relay = (
        "\tset own_relay {\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t}\n",
        '\t\toifname != "lo" meta skuid root ip daddr @own_relay tcp dport 25 accept\n',
    )
    rendered_text = text.replace(tunnel[0], "").replace(to_relay[0], "")
    for part in own_relay:
        # Behind what goes to the tunnel, and before the refusal of all else on port 25.
        assert rendered_text.count(part) == 1
        rendered_text = rendered_text.replace(part, "")
    assert text.index("goto to_relay") < text.index("@own_relay") < text.index("tcp dport 25 reject")
    rendered = rendered_text.splitlines()
    ports = [line for line in rendered if "comment" in line or "goto" in line]
    refused = "reject with icmpx admin-prohibited comment"
    home4 = "{ 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16 }"
    assert [line.strip() for line in ports] == [
        'iifname "relay*" goto tunnel',
        'tcp dport 25 accept comment "smtp"',
        'tcp dport 465 accept comment "submissions"',
        'tcp dport 587 accept comment "submission"',
        'tcp dport 993 accept comment "imaps"',
        'tcp dport 4190 accept comment "sieve"',
        f'ip saddr {home4} tcp dport 22 accept comment "ssh"',
        'ip6 saddr { fc00::/7, fe80::/10 } tcp dport 22 accept comment "ssh"',
        f'ip saddr {home4} tcp dport 80 accept comment "page-plain"',
        'ip6 saddr { fc00::/7, fe80::/10 } tcp dport 80 accept comment "page-plain"',
        f'ip saddr {home4} tcp dport 443 accept comment "page"',
        'ip6 saddr { fc00::/7, fe80::/10 } tcp dport 443 accept comment "page"',
        f'ip saddr {home4} udp dport 5353 accept comment "mdns"',
        'ip6 saddr { fc00::/7, fe80::/10 } udp dport 5353 accept comment "mdns"',
        'oifname "relay*" goto to_relay',
        f'oifname "lo" tcp dport 2526 meta skuid != {{darkpipe-drain}} {refused} "drained"',
        f'oifname "lo" tcp dport 10001 meta skuid != {{postfix, root}} {refused} "srs-forward"',
        f'oifname "lo" tcp dport 10002 meta skuid != {{postfix, root}} {refused} "srs-reverse"',
        f'oifname "lo" tcp dport 10026 meta skuid != {{postfix}} {refused} "forward"',
        f'oifname "lo" tcp dport 10027 meta skuid != {{vmail}} {refused} "from-sieve"',
    ]
    static = (COMPONENTS / "firewall/files/etc/nftables.conf").read_text().splitlines()
    closed = [line for line in static if line.strip() and not line.lstrip().startswith("#")]
    neighbours = [line for line in closed if "comment" in line]
    assert neighbours == [line for line in ports if any(f" {port} acc" in line for port in (22, 80, 443, 5353))]
    # Before there is a tunnel chain, nothing comes from there at all, and that is said first.
    shut = '\t\tiifname "relay*" drop'
    assert closed.index(shut) == closed.index("\tchain input {") + 2
    assert rendered.index('\t\tiifname "relay*" goto tunnel') == rendered.index("\tchain input {") + 2
    # Right behind it, what comes from the relay while the disk is locked: Tang's answers, in both.
    for lines in (closed, [line for line in rendered if not line.lstrip().startswith("#")]):
        place = lines.index("\tchain input {") + 3
        assert lines[place : place + 2] == [
            '\t\tiifname "unlock0" tcp sport 2602 ct state established accept',
            '\t\tiifname "unlock0" drop',
        ]
    assert [line for line in rendered if line not in ports] == [
        line for line in closed if line not in {shut, *neighbours}
    ]


def test_the_same_input_gives_the_same_bytes() -> None:
    assert _shipped() == _shipped()


def test_an_unknown_name_is_an_error_of_its_template(tmp_path: Path) -> None:
    stack = sample_stack(tmp_path)
    (tmp_path / "one/templates/one/main.conf.j2").write_text("{{ accounts.colour }}\n")
    with pytest.raises(RenderError, match=r"one/main\.conf\.j2: .*colour"):
        render(stack, ACCOUNTS, CERTIFICATE, KEYS)


def test_a_secret_without_a_template_is_an_error(tmp_path: Path) -> None:
    stack = sample_stack(tmp_path)
    (tmp_path / "two/templates/two/secret.j2").unlink()
    with pytest.raises(RenderError, match="two/secret"):
        render(stack, ACCOUNTS, CERTIFICATE, KEYS)


def test_rspamd_signs_with_both_keys_of_each_domain() -> None:
    text = _shipped()[PurePosixPath("rspamd/local.d/dkim_signing.conf")].content.decode()
    for domain in ("example.com", "example.org"):
        rules = text.partition(f'"{domain}" {{')[2].partition("]")[0]
        assert re.findall(r'selector = "(.*?)"; path = "(.*?)";', rules) == [
            (f"dp1-{algorithm}", f"/data/dkim/dp1-{algorithm}.{domain}.key") for algorithm in ("rsa", "ed25519")
        ]


def test_rspamd_knows_the_senders_that_postfix_knows() -> None:
    assert [line.replace(",", ", ") for line in _lines("rspamd/sender_logins.map")] == _lines("postfix/sender_logins")
