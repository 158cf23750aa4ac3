"""A device whose image has brought no site: the form on its page, a power cut, a code of one's own, the claim.

Some minutes on an emulated processor, and an image of its own, therefore only when asked for:

    ./dev test images -- -k without_site --without-site
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.locked import SECONDS, Page
from tests.images.machine import Machine, darkpipe

_CODE = "Seven wet geese 7"
_ESP = "/dev/disk/by-partlabel/darkpipe-esp"
_PASSWORD = "four words are good"
_ANSWERS = {"domains": "example.com", "owner": "alice@example.com", "unlock": "none", "data": "system"}


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Machine]:
    """A device that knows no domain; it is off."""
    if not request.config.getoption("--without-site"):
        pytest.skip("takes some minutes: --without-site")
    folder = darkpipe("build", "--without-site", "--output", str(scratch / "without-site")).splitlines()[-1]
    machine = Machine(Path(folder), scratch / "without-site.img")
    yield machine
    machine.cut_power()
    machine.disk.unlink(missing_ok=True)


def test_it_asks_for_a_site_with_the_code_of_its_console_and_a_power_cut_asks_again(machine: Machine) -> None:
    machine.boot()
    assert machine.expect([r"asks for the code \d{4} \d{4}", "cannot use"], SECONDS) == 0
    shown = machine.console_text()
    assert "has to know" in shown
    page = Page(machine.page)
    fingerprint = ":".join(re.findall(r"[0-9A-F]{2}(?::[0-9A-F]{2})+", shown.rpartition("fingerprint")[2])[:2])
    assert page.fingerprint == fingerprint
    assert "Set up this device" in page.get()
    assert "not the right one" in page.post("/site", **_ANSWERS, code="00000000x")
    machine.type("")  # a login, which is a shell here
    machine.shell()
    assert machine.run("findmnt /data").status == 1
    assert machine.lines("systemctl --failed --no-legend") == []
    put = f"mkdir /run/b && mount {_ESP} /run/b && echo '{_CODE}' > /run/b/darkpipe-code.txt && umount /run/b"
    assert machine.run(put).status == 0
    machine.cut_power()


def test_answers_and_an_own_code_make_it_a_device_as_any_other(machine: Machine) -> None:
    machine.boot()
    assert machine.expect(["your code of darkpipe-code.txt", r"asks for the code \d{4}", "cannot use"], SECONDS) == 0
    page = Page(machine.page)
    assert "Your own code, which image or card has brought" in page.get()
    wrong = page.post("/site", **{**_ANSWERS, "domains": "example"}, code=_CODE.upper())
    assert "single word" in wrong
    assert 'name="code"' not in wrong
    page.post("/site", **_ANSWERS)
    machine.up()
    assert machine.run("systemctl is-system-running").output == "running"
    machine.wait_for_mail_services()
    assert machine.lines("findmnt --noheadings --output FSTYPE /data") == ["btrfs"]
    left = machine.run(f"mkdir /run/b && mount -o ro {_ESP} /run/b && ls -A /run/b && umount /run/b")
    assert "EFI" in left.output
    assert "darkpipe-code" not in left.output
    assert "darkpipe.yaml" not in left.output
    assert machine.lines("stat --format=%a /data/page/first-code") == ["600"]


def _seen(page: Page) -> str:
    try:
        return page.get()
    except OSError:  # between one page's end and the other's start
        return ""


def test_the_page_is_claimed_by_the_same_code_once(machine: Machine) -> None:
    machine.up()
    end = time.monotonic() + SECONDS
    page = Page(machine.page)
    while "Nobody looks after this device" not in _seen(page):
        assert time.monotonic() < end, "the administrator's page does not come"
        time.sleep(2)
    page.post("/claim", code=_CODE, password=_PASSWORD, again=_PASSWORD)
    assert machine.run("test -e /data/page/first-code").status == 1
    assert "Mail" in page.get()
    machine.reboot()
    assert machine.run("systemctl is-system-running").output == "running"
