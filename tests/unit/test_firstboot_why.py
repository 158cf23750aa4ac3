"""Why a device has no configuration: what is kept, and the page that shows it."""

from __future__ import annotations

import html
import os
from pathlib import Path

import pytest

from firstboot.page.without_site import make_app
from firstboot.partitions import DiskError
from firstboot.why import forget_reason, keep_reason, reason
from model.document import SiteError, read_site
from tests.unit.browser import HOST, Browser
from tests.unit.stack_samples import HASH

_WRONG = f"""\
version: 1
domain: [example.com]
admin: alice@example.com
users: [{{address: alice@example.com, password: "{HASH}", pasword: "hunter2hunter2"}}]
"""


def _wrong(folder: Path) -> SiteError:
    (folder / "darkpipe.yaml").write_text(_WRONG)
    with pytest.raises(SiteError) as caught:
        read_site(folder / "darkpipe.yaml")
    return caught.value


def test_each_problem_has_its_line_and_a_remedy_and_no_secret(tmp_path: Path) -> None:
    first, *rows = reason(_wrong(tmp_path)).splitlines()
    assert first == "darkpipe.yaml on the boot partition cannot be used."
    assert any(row.startswith("line 2: found `domain`") for row in rows), rows
    assert any(row.startswith("line 4: found `pasword`") for row in rows), rows
    assert not any(secret in row for row in rows for secret in (HASH, "hunter2"))
    assert reason(DiskError("it is broken")) == "it is broken"


def test_of_a_file_that_is_another_programs_not_every_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "darkpipe.yaml"
    path.write_text("".join(f"key{number}: 1\n" for number in range(500)))
    with pytest.raises(SiteError) as caught:
        read_site(path)
    rows = reason(caught.value).splitlines()
    assert len(rows) == 42
    assert rows[-1] == f"… and {len(caught.value.problems) - 40} more. Mend these first."
    assert "more. Mend" not in reason(_wrong(tmp_path))


def test_it_is_for_everybody_to_read_until_there_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "why/text"
    before = os.umask(0o077)
    try:
        keep_reason("because", path)
    finally:
        os.umask(before)
    assert path.read_text() == "because\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    forget_reason(path)
    forget_reason(path)
    assert not path.exists()
    keep_reason("nowhere", tmp_path / "no/such/text")


def test_the_page_shows_it_to_neighbours_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("line 3: found <b>, expected a name\n")
    browser = Browser(make_app(path, lambda: "darkpipe"))
    answer = browser.get()
    assert (answer.status, "line 3: found <b>, expected a name" in html.unescape(answer.text)) == (200, True)
    assert "<b>" not in answer.text
    assert "<form" not in answer.text
    assert browser.send("POST", "/", {"host": HOST, "content-length": "0"}).status == 405
    assert browser.get(host="evil.example.net").status == 421
    assert Browser(make_app(path), "203.0.113.9").get().status == 403
    path.unlink()
    assert browser.get().status == 200
