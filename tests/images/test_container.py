"""Builds in a container of a real engine, on a computer that is made to look like another distribution."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pexpect
import pytest

from builder.container import CACHE, CACHE_VOLUME, PREPARED, Given, put_checkout, run_darkpipe
from builder.engine import Container
from builder.where import CONTAINER_VARIABLE, IMAGE_VARIABLE
from stack.passwords import hash_password
from tests.images.bench import SITE
from tests.images.engine import IMAGE, OwnEngine, import_image, lend_cache, own_engine
from tests.images.machine import REPOSITORY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a container engine")

_DEADLINE = 60.0
_HIDDEN = ("apt-get", "dpkg", "gpg", "mmdebstrap", "newuidmap")
_OTHER_SYSTEM = f"""
mount --bind "$RELEASE" /etc/os-release
for name in {" ".join(_HIDDEN)}; do
	[ ! -e /usr/bin/$name ] || mount --bind /dev/null /usr/bin/$name
done
exec "$@"
"""


@dataclass(frozen=True)
class Computer:
    """This computer, as if it were a Fedora with the engine.

    Args:
        folder: for its files.
        image: the setting.
    """

    engine: OwnEngine
    folder: Path
    image: str = IMAGE

    def command(self, *arguments: str) -> list[str]:
        """The command line of `darkpipe` there."""
        enter = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-euc", _OTHER_SYSTEM, "enter"]
        return [*enter, str(REPOSITORY / "darkpipe"), "--yes", *arguments]

    @property
    def environment(self) -> Mapping[str, str]:
        """With no cache: none may be needed on this side."""
        release = self.folder / "os-release"
        release.write_text("ID=fedora\nVERSION_ID=42\n", encoding="ascii")
        ours = {"RELEASE": str(release), "DOCKER_HOST": self.engine.host, IMAGE_VARIABLE: self.image}
        kept = {name: text for name, text in os.environ.items() if name != CONTAINER_VARIABLE}
        return kept | ours | {"DARKPIPE_CACHE": "/proc/nowhere"}

    def darkpipe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, with its messages to be read."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def engine(image: Path, request: pytest.FixtureRequest) -> Iterator[OwnEngine]:
    assert image.is_dir()  # our cache has what is lent
    with own_engine() as engine:
        import_image(engine)
        if not request.config.getoption("--cold-container"):
            lend_cache(engine)
        yield engine


@pytest.fixture
def computer(engine: OwnEngine, tmp_path: Path) -> Computer:
    return Computer(engine, tmp_path)


@pytest.fixture(scope="module")
def host_result(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build on this computer itself makes of the example."""
    assert image.is_dir()
    folder = tmp_path_factory.mktemp("host")
    command: list[str | Path] = [
        REPOSITORY / "darkpipe",
        "build",
        REPOSITORY / "examples/home.yaml",
        "--output",
        folder,
    ]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.splitlines()[-1])


@pytest.fixture
def site(computer: Computer) -> Path:
    path = computer.folder / "home.yaml"
    path.write_text(SITE, encoding="utf-8")
    return path


def _sums(folder: Path) -> str:
    return (folder / "SHA256SUMS").read_text(encoding="utf-8")


def _nothing_runs(engine: OwnEngine) -> None:
    deadline = time.monotonic() + _DEADLINE
    while left := engine.containers():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_before_the_first_build_the_doctor_tries_a_container(computer: Computer) -> None:
    examined = computer.darkpipe("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(examined.stdout)}
    assert examined.returncode == 0, findings
    assert findings["system"]["found"].startswith("fedora ")
    assert "the first build installs" in findings["container image"]["found"]
    assert findings["private namespaces"]["verdict"] == "fine"


def test_the_image_is_the_same_to_the_bit(computer: Computer, site: Path, host_result: Path) -> None:
    first = computer.darkpipe("build", str(site), "--output", "out")
    assert first.returncode == 0, first.stderr
    assert re.search(r"^Prepare a container: [0-9.]+ s$", first.stderr, re.MULTILINE)
    result = computer.folder / first.stdout.strip()
    assert _sums(result) == _sums(host_result)
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=result, check=True)
    assert result.stat().st_mode & 0o077 == 0
    assert [path.name for path in (computer.folder / "out").iterdir()] == [result.name]
    _nothing_runs(computer.engine)

    second = computer.darkpipe("build", str(site), "--output", "again")
    assert second.returncode == 0, second.stderr
    assert "Prepare" not in second.stderr
    assert re.findall(r"^(.+): [0-9.]+ s$", second.stderr, re.MULTILINE) == ["Disk image"]
    assert _sums(computer.folder / second.stdout.strip()) == _sums(host_result)


def test_the_doctor_hands_on_what_the_container_says(computer: Computer) -> None:
    examined = computer.darkpipe("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(examined.stdout)}
    assert examined.returncode == 0, findings
    assert findings["disk space"]["found"]
    assert findings["Debian's archive"]["verdict"] == "fine"


def test_words_and_exit_status_come_through(computer: Computer, host_result: Path, tmp_path: Path) -> None:
    same = computer.darkpipe("diff", str(host_result), str(host_result))
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    checked = computer.darkpipe("verify", str(host_result))
    assert checked.returncode == 0
    assert "good verified root" in checked.stdout
    locked = computer.darkpipe("lock", "--output", "made.lock")
    assert locked.returncode == 0, locked.stderr
    assert (tmp_path / "made.lock").read_bytes() == (host_result / "packages.lock").read_bytes()
    listed = computer.darkpipe("cache", "list")
    assert "Package layer" in listed.stdout
    assert "/cache" in listed.stdout


def test_a_failing_build_tells_why_and_leaves_nothing(computer: Computer, site: Path, host_result: Path) -> None:
    empty = computer.folder / "debs"
    empty.mkdir()
    # A lock of its own: whoever has built by the other one has its layer in the cache, and needs no package.
    known = (host_result / "packages.lock").read_text()
    lock = computer.folder / "unheard-of.lock"
    lock.write_text(re.sub(r'"sha256": "[0-9a-f]{64}"', f'"sha256": "{"0" * 64}"', known, count=1))
    failed = computer.darkpipe("build", str(site), "--lock", str(lock), "--packages", str(empty), "--output", "out")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "Hint: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list((computer.folder / "out").iterdir()) == []
    _nothing_runs(computer.engine)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_container_ends_with_us(computer: Computer, site: Path, number: signal.Signals) -> None:
    """With all that was put into it, also when nobody is left to remove it."""
    with computer.start("build", str(site), "--output", "out") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Disk image …"):
                assert computer.engine.containers() == ["running"]
                process.send_signal(number)
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    _nothing_runs(computer.engine)
    left = list((computer.folder / "out").iterdir())
    assert left == []


def test_on_a_terminal_passwords_are_asked_for_and_nothing_of_them_stays(computer: Computer, site: Path) -> None:
    site.write_text(SITE.replace("password: generate", "password: prompt", 1), encoding="utf-8")
    secret = hash_password("seventeen mauve lanterns")
    site.write_text(site.read_text().replace("password: generate", f'password: "{secret}"', 1), encoding="utf-8")
    program, *arguments = computer.command("build", str(site), "--output", "out")
    terminal: dict[str, Any] = {"encoding": "utf-8", "timeout": 180, "dimensions": (24, 120)}
    environment = dict(computer.environment) | {"TERM": "xterm"}
    console = pexpect.spawn(program, arguments, cwd=computer.folder, env=environment, **terminal)
    for _ in range(2):
        console.expect("(Password for alice@example.com|Repeat for confirmation): ")
        console.sendline("eleven ochre lanterns")
    console.expect("Disk image.*━")
    console.expect("darkpipe-0.1.0-x64-")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0
    _nothing_runs(computer.engine)
    for needle in (secret, "eleven ochre"):
        found = subprocess.run(["grep", "-rlF", "-e", needle, computer.engine.folder], capture_output=True, check=False)
        assert found.stdout == b"", needle


def test_what_is_prepared_holds_nothing_of_ours(engine: OwnEngine) -> None:
    with engine.api() as api:
        (name,) = [tag for row in api.images(PREPARED) for tag in row["RepoTags"]]
        with pytest.raises(docker.errors.NotFound), _plain_container(api, name, []) as container:
            api.get_archive(container.identifier, "/darkpipe")


def test_root_in_a_container_is_told_the_missing_flag(engine: OwnEngine, host_result: Path) -> None:
    findings, complaint = _in_plain_container(engine, [], host_result)
    assert findings["private namespaces"]["verdict"] == "problem"
    assert "start the docker container with --cap-add SYS_ADMIN" in findings["capability SYS_ADMIN"]["remedy"]
    assert "--cap-add SYS_ADMIN" in complaint
    assert "Traceback" not in complaint


def test_root_in_a_container_with_sys_admin_needs_no_more(engine: OwnEngine, host_result: Path) -> None:
    """Not even the filter of system calls has to be taken away."""
    findings, complaint = _in_plain_container(engine, ["SYS_ADMIN"], host_result)
    assert [name for name, finding in findings.items() if finding["verdict"] == "problem"] == []
    assert complaint == ""


def _in_plain_container(engine: OwnEngine, capabilities: list[str], result: Path) -> tuple[dict[str, Any], str]:
    """What the doctor finds in a container that somebody has started by hand, and what a command complains about."""
    found, complaint = bytearray(), bytearray()
    with engine.api() as api:
        (name,) = [tag for row in api.images(PREPARED) for tag in row["RepoTags"]]
        with _plain_container(api, name, capabilities) as container:
            put_checkout(container)
            run_darkpipe(container, ["doctor", "--json"], lambda out, _: found.extend(out))
            # Enters a tools tree, if it may.
            given = [Given(result), Given(result)]
            status = run_darkpipe(container, ["diff", *given], lambda _, err: complaint.extend(err))
    findings = {finding["subject"]: finding for finding in json.loads(found)}
    text = complaint.decode() if status else ""
    return findings, text


@contextmanager
def _plain_container(api: docker.APIClient, image: str, capabilities: list[str]) -> Iterator[Container]:
    made = api.create_container(
        image,
        entrypoint=["cat"],
        command=[],
        stdin_open=True,
        host_config=api.create_host_config(cap_add=capabilities, binds={CACHE_VOLUME: {"bind": CACHE, "mode": "rw"}}),
    )
    try:
        api.start(made["Id"])
        yield Container(api, made["Id"])
    finally:
        api.remove_container(made["Id"], force=True)


def test_an_image_that_the_engine_lacks_is_named(computer: Computer) -> None:
    other = replace(computer, image="darkpipe-test/none")
    refused = other.darkpipe("build", str(REPOSITORY / "examples/home.yaml"), "--output", "out")
    assert refused.returncode == 1
    assert "does not have the image darkpipe-test/none" in refused.stderr
    assert IMAGE_VARIABLE in refused.stderr
    assert "Traceback" not in refused.stderr
    assert other.darkpipe("doctor").returncode == 0
