"""`./darkpipe doctor` on computers that really lack something: made by dropping it from a process of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_DOCTOR = [sys.executable, "-m", "builder", "doctor", "--json"]

# An ordinary user, who may still read the checkout and the Python environment below root's home.
_ORDINARY = ["setpriv", "--reuid", "64999", "--regid", "64999", "--clear-groups"]
_ORDINARY += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"]


def _doctor(tmp_path: Path, *prefix: str) -> tuple[int, dict[str, Any]]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp"}
    command = [*prefix, *_DOCTOR]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.returncode, {finding["subject"]: finding for finding in json.loads(result.stdout)}


def test_root_as_it_is_has_no_problem(tmp_path: Path) -> None:
    status, findings = _doctor(tmp_path)
    assert status == 0, findings
    assert findings["private namespaces"]["verdict"] == "fine"
    assert findings["Debian's archive"]["verdict"] == "fine"


def test_root_without_sys_admin_is_told_the_missing_flag(tmp_path: Path) -> None:
    status, findings = _doctor(tmp_path, "capsh", "--drop=cap_sys_admin", "--", "-c", '"$0" "$@"')
    assert status == 1
    assert findings["private namespaces"]["verdict"] == "problem"
    assert "--cap-add SYS_ADMIN" in findings["capability SYS_ADMIN"]["remedy"]


def test_no_network(tmp_path: Path) -> None:
    status, findings = _doctor(tmp_path, "unshare", "--net")
    assert status == 1
    assert findings["Debian's archive"]["verdict"] == "problem"
    assert findings["private namespaces"]["verdict"] == "fine"


def test_ordinary_user_without_subordinate_ids(tmp_path: Path) -> None:
    status, findings = _doctor(tmp_path, *_ORDINARY)
    assert status == 1
    assert findings["subordinate ids"]["verdict"] == "problem"
    assert "--add-subgids" in findings["subordinate ids"]["remedy"]


@pytest.mark.parametrize("limit", [0, 100])
def test_ordinary_user_who_may_make_no_user_namespaces(tmp_path: Path, limit: int) -> None:
    """The limit is set in a user namespace of our own: outside nothing changes."""
    with subprocess.Popen(["unshare", "--user", "sleep", "60"]) as holder:
        try:
            _wait_for_namespace(holder.pid)
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{holder.pid}/{name}").write_text("0 0 65536\n")
            script = 'echo "$1" > /proc/sys/user/max_user_namespaces; shift; exec "$@"'
            inside = ["nsenter", "--user", f"--target={holder.pid}", "--setuid=0", "--setgid=0"]
            status, findings = _doctor(tmp_path, *inside, "sh", "-euc", script, "sh", str(limit), *_ORDINARY)
        finally:
            holder.kill()
    assert status == 1
    assert findings["private namespaces"]["verdict"] == "problem"  # with the higher limit, for want of subordinate ids
    assert ("user namespaces" in findings) == (limit == 0)
    if limit == 0:
        assert "sysctl user.max_user_namespaces=" in findings["user namespaces"]["remedy"]


def _wait_for_namespace(pid: int) -> None:
    ours = Path("/proc/self/ns/user").readlink()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/ns/user").readlink() == ours:
        assert time.monotonic() < deadline
        time.sleep(0.01)
