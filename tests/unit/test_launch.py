"""The launchers' shell part, as far as it goes without installing anything."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LAUNCH = REPOSITORY / "builder" / "launch.sh"


def prologue() -> str:
    """Source launch.sh and be an ordinary user named alice."""
    return f"set -eu; root=/nowhere; . {shlex.quote(str(LAUNCH))}; program=darkpipe user=alice uid=1000 ask=''\n"


def in_shell(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", prologue() + script],
        env={"PATH": os.environ["PATH"], **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("click==8.5.1 --hash=sha256:aa\n", encoding="ascii")
    return path


def environment_for(lock: Path, **variables: str) -> str:
    found = in_shell(f'lock={shlex.quote(str(lock))}; find_environment; echo "$environment"', **variables)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("alice:100000:65536\n", True),
        ("bob:100000:65536\n1000:165536:65536\n", True),
        ("bob:100000:65536\nalice:165536:65536", True),
        ("alice:100000:1000\n", False),
        ("alicent:100000:65536\n", False),
        ("", False),
    ],
)
def test_subordinate_ids_are_found(tmp_path: Path, text: str, has: bool) -> None:
    file = tmp_path / "subuid"
    file.write_text(text, encoding="ascii")
    assert (in_shell(f"has_ids {shlex.quote(str(file))}").returncode == 0) is has


def test_new_subordinate_ids_lie_above_all_others(tmp_path: Path) -> None:
    users, groups = tmp_path / "subuid", tmp_path / "subgid"
    users.write_text("bob:100000:65536\n\n# a comment\ncarol:165536:65536\n", encoding="ascii")
    groups.write_text("bob:300000:65536\n", encoding="ascii")
    paths = f"{shlex.quote(str(users))} {shlex.quote(str(groups))}"
    assert in_shell(f"free_id {paths}").stdout == "365536\n"
    assert in_shell("free_id /nowhere").stdout == "100000\n"


def test_each_lock_file_has_its_own_environment(lock: Path, tmp_path: Path) -> None:
    before = environment_for(lock, HOME=str(tmp_path))
    assert before.startswith(f"{tmp_path}/.local/share/darkpipe/venv-python3.")
    lock.write_text("click==8.5.2 --hash=sha256:bb\n", encoding="ascii")
    assert environment_for(lock, HOME=str(tmp_path)) != before


def test_a_relative_data_folder_is_ignored(lock: Path, tmp_path: Path) -> None:
    found = environment_for(lock, HOME=str(tmp_path), XDG_DATA_HOME="data")
    assert found.startswith(f"{tmp_path}/.local/share/darkpipe/")


def test_without_a_home_the_user_is_told(lock: Path) -> None:
    told = in_shell(f"lock={shlex.quote(str(lock))}; find_environment")
    assert told.returncode == 1
    assert "HOME is not set" in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("ID=debian\n", True),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', True),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', False),
        ("NAME=Strange\n", False),
        (None, False),
    ],
)
def test_debian_and_what_is_made_from_it_is_known(tmp_path: Path, text: str | None, like: bool) -> None:
    release = tmp_path / "os-release"
    if text is not None:
        release.write_text(text, encoding="ascii")
    assert (in_shell(f"debian_like /nowhere {shlex.quote(str(release))}").returncode == 0) is like


def test_the_first_python_that_is_new_enough_is_taken(tmp_path: Path) -> None:
    for name, status in (("python3", 1), ("python3.12", 0), ("python3.11", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "readlink").symlink_to("/usr/bin/readlink")
    assert in_shell(f"PATH={shlex.quote(str(tmp_path))}; new_python").stdout == f"{tmp_path}/python3.12\n"
    (tmp_path / "python3.12").unlink()
    (tmp_path / "python3.11").unlink()
    assert in_shell(f"PATH={shlex.quote(str(tmp_path))}; new_python").returncode == 1


def test_builds_in_a_container_need_no_tools_of_debian_here() -> None:
    ours, theirs = (in_shell('echo "$needed"', DARKPIPE_CONTAINER=where).stdout for where in ("never", "always"))
    assert "mmdebstrap" in ours
    assert "mmdebstrap" not in theirs
    assert in_shell('find_missing; echo "$wanted_ids"', DARKPIPE_CONTAINER="always").stdout == "\n"


def test_without_apt_the_user_is_told_what_is_needed(lock: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("uname", "id", "readlink", "cat"):
        (tools / name).symlink_to(Path("/usr/bin") / name)
    script = (
        f"PATH={shlex.quote(str(tools))}; lock={shlex.quote(str(lock))} environment=/nowhere/venv wanted_ids=''\n"
        "missing='mmdebstrap|makes Debian systems\n'\ncheck_host"
    )
    told = in_shell(script)
    assert told.returncode == 1
    assert "mmdebstrap" in told.stderr
    assert "no apt-get" in told.stderr
    assert told.stdout == ""


@pytest.fixture
def slow_python(tmp_path: Path) -> Path:
    """A Python that has made half an environment, and then takes its time."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\n[ "$1" = -c ] || { mkdir "$4" && exec sleep "$SLEEP"; }\n', encoding="ascii")
    path.chmod(0o755)
    return path


def make_environment(lock: Path, python: Path, environment: Path) -> str:
    names = {"lock": lock, "python": python, "environment": environment}
    return "\n".join([*(f"{name}={shlex.quote(str(path))}" for name, path in names.items()), "make_environment"])


def test_a_failed_installation_leaves_nothing(lock: Path, slow_python: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    told = in_shell(make_environment(lock, slow_python, tmp_path / "data" / "venv"), SLEEP="0")
    assert told.returncode == 1
    assert "could not be installed" in told.stderr
    assert told.stdout == ""
    assert list((tmp_path / "data").iterdir()) == []


def test_an_interrupted_installation_leaves_nothing(lock: Path, slow_python: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script = make_environment(lock, slow_python, tmp_path / "data" / "venv")
    with subprocess.Popen(
        ["sh", "-c", prologue() + script],
        env={"PATH": os.environ["PATH"], "SLEEP": "60"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as shell:
        while not (half_made := list((tmp_path / "data").iterdir())):
            assert shell.poll() is None
            time.sleep(0.01)
        os.killpg(shell.pid, signal.SIGINT)
        assert shell.wait(timeout=20) == 130
    assert [path.name for path in half_made] == ["venv.new"]
    assert list((tmp_path / "data").iterdir()) == []


def test_an_environment_whose_python_has_gone_is_made_anew(lock: Path, tmp_path: Path) -> None:
    python, environment = tmp_path / "python", tmp_path / "data" / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(tmp_path / "python3.11-of-before")
    # Makes an environment whose python does nothing, and is a pip in it.
    python.write_text(
        '#!/bin/sh\n[ "$1" = -c ] || { mkdir -p "$4/bin" && ln -s /bin/true "$4/bin/python"; }\n', encoding="ascii"
    )
    python.chmod(0o755)
    told = in_shell(make_environment(lock, python, environment))
    assert told.returncode == 0, told.stderr
    assert (environment / "bin/python").resolve() == Path("/bin/true").resolve()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["venv"]
