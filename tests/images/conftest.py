"""The image under test, built once, and devices that run it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.passwords import hash_password
from tests.images.machine import REPOSITORY, Machine

PASSWORD = "correct horse battery staple"
"""Alice's, in the test image."""

SITE = """\
version: 1
domains: [example.com, example.org]
admin: alice@example.com
mail_server: postfix-dovecot
disk: {{unlock: none}}
users:
  - address: alice@example.com
    aliases: [postmaster@example.com, sales@example.org]
    password: {hash}
  - address: bob@example.org
    password: generate
"""
"""The test image's site, without Alice's hash."""


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for disks and images."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="session")
def password_hash() -> str:
    """The hash of PASSWORD that the seed carries."""
    return hash_password(PASSWORD)


@pytest.fixture(scope="session")
def image(scratch: Path, password_hash: str) -> Path:
    """The result of the README's build command, for the tests' site."""
    site = scratch / "site.yaml"
    site.write_text(SITE.format(hash=password_hash), encoding="utf-8")
    command = [str(REPOSITORY / "darkpipe"), "--yes", "build", str(site), "--output", str(scratch / "out")]
    built = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True)
    return Path(built.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def device(image: Path, scratch: Path) -> Iterator[Machine]:
    """A device with the smallest disk that is allowed, started for the first time."""
    machine = Machine(image, scratch / "device.img")
    machine.up()
    machine.wait_for_mail_services()
    yield machine
    machine.off()
