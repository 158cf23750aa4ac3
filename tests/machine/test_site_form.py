"""The form of a device without a site: the real page in its cage, the real seed, and what `darkpipe apply` makes of it.

A container has no disk of its own, so that darkpipe-disk.service does not run there: what it does while it asks is run
in its place. The whole of it is a test of the image's (tests/images/test_without_site.py).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable

from firstboot.page.certificate import fingerprint
from model.document import read_site
from model.site import UnlockPolicy
from tests.machine.machine import HOME_ADDRESS, Machine, wait_for
from tests.machine.test_page import _Browser

_ASK = """\
import sys
sys.path[:0] = ["/usr/lib/darkpipe", "/usr/lib/darkpipe/python"]
from pathlib import Path
from firstboot.door import Door
with Door(Path("/state")) as door:
    door.wish()
    print(door.ask(lambda: False), flush=True)
"""
_SEE = """\
import sys, json
sys.path[:0] = ["/usr/lib/darkpipe", "/usr/lib/darkpipe/python"]
from firstboot.unlock_socket import UnlockClient
seen = UnlockClient().see()
print(json.dumps([seen.view.stage, seen.code, seen.own_code, list(seen.policies)]))
"""
_CODE = "seven wet geese 7"


def test_a_device_asks_for_its_site_and_is_claimed_by_the_code_of_its_card(
    new_machine: Callable[[str], Machine],
) -> None:
    machine = new_machine("")
    (machine.boot_partition / "darkpipe-code.txt").write_text(_CODE)
    machine.start()
    assert (machine.boot_partition / "darkpipe-code.txt").is_file(), "it waits for a site"
    machine.run("systemctl", "stop", "darkpipe-why-page.service")  # no disk, no form: it has the port in a container
    for name, text in (("ask.py", _ASK), ("see.py", _SEE)):
        (machine.data / name).write_text(text)
    machine.run("systemd-run", "--quiet", "--unit=ask", "/usr/bin/python3", "-I", "/data/ask.py")
    wait_for(lambda: machine.run("systemctl", "is-active", "darkpipe-page", check=False) == "active\n", "the page")
    stage, code, own, policies = json.loads(machine.run("/usr/bin/python3", "-I", "/data/see.py"))
    assert (stage, code, own) == ("site", "", True)
    assert UnlockPolicy.PASSPHRASE in policies
    with machine.lan() as client:
        wait_for(lambda: client.can_connect(443), "the page listens")
        certificate = client.call(ssl.get_server_certificate, (HOME_ADDRESS, 443))
        browser = _Browser(client, fingerprint(certificate))
        assert "Set up this device" in browser.get()[1]
        answers = {"domains": "example.com", "owner": "alice@example.com", "unlock": "none"}
        assert browser.post("/site", **answers, code="12345678")[0] == 422
        assert not (machine.boot_partition / "darkpipe.yaml").exists()
        assert browser.post("/site", **answers, code=_CODE)[0] == 303
    assert read_site(machine.boot_partition / "darkpipe.yaml").users[0].address == "alice@example.com"
    wait_for(lambda: "unlock=" in machine.run("journalctl", "--unit=ask", "--output=cat", check=False), "the answer")
    machine.restart()
    assert machine.failed_units() == []
    assert list(machine.boot_partition.iterdir()) == []
    shown = json.loads(machine.run("darkpipe", "page", "show", "--json"))
    assert (shown["code"], shown["own_code"], shown["claimed"]) == ("", True, False)
    assert _CODE not in machine.console
    kept = machine.data / "page/first-code"
    assert kept.stat().st_mode & 0o777 == 0o600
    with machine.lan() as client:
        wait_for(lambda: client.can_connect(443), "the page listens")
        browser = _Browser(client, shown["fingerprint"])
        assert "darkpipe-code.txt" in browser.get()[1]
        assert browser.post("/claim", code=_CODE, password=_CODE, again=_CODE)[0] == 303
    assert not kept.exists()
    machine.stop()
