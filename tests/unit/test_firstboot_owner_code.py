"""The owner's own code, in a file on the card."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from firstboot.door import Door
from firstboot.owner_code import KEPT, read_code, read_kept_code, take_code
from home.configure import take_over
from home.store import Store
from model.document import SEED_NAME
from model.owner_code import CODE_NAME, CodeError
from tests.unit.power_cut import at_every_step
from tests.unit.stack_samples import site

_SEED = """\
version: 1
domains: [example.com]
disk: {unlock: none}
users: [{address: alice@example.com}]
"""


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"blue geese fly 7", "bluegeesefly7"), (b"\xef\xbb\xbfABCD-efgh-1234\r\n", "abcdefgh1234")],
)
def test_a_code_on_the_card(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / CODE_NAME).write_bytes(content)
    assert read_code(tmp_path) == code


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"geese-1", "6 letters and digits"),
        (b"", "0 letters"),
        (b"x" * 900, "900 letters"),
        (b"aaaaaaaaaaaaaa", "again and again"),
        ("schöne geese 12".encode(), "other characters"),
        (b"blue geese fly 7\nanother line", "other characters"),
        ("blue geese fly 7".encode("utf-16"), "UTF-8"),
    ],
)
def test_a_code_that_would_not_do_is_refused_and_not_shown(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / CODE_NAME).write_bytes(content)
    with pytest.raises(CodeError, match=why) as refused:
        read_code(tmp_path)
    assert "geese" not in str(refused.value)


def test_a_code_that_notepad_has_named_is_told(tmp_path: Path) -> None:
    assert read_code(tmp_path) is None
    (tmp_path / f"{CODE_NAME}.txt").write_text("blue geese fly 7")
    with pytest.raises(CodeError, match="rename it"):
        read_code(tmp_path)


def test_a_code_is_moved_off_the_card_with_the_site_only(tmp_path: Path) -> None:
    boot, kept = tmp_path / "boot", tmp_path / "first-code"
    boot.mkdir()
    take_code(boot, kept, fresh=True)
    (boot / CODE_NAME).write_text("blue geese fly 7")
    take_code(boot, kept, fresh=False)
    assert not any(path.exists() for path in (kept, boot / CODE_NAME)), "a device with a site obeys no card"
    (boot / CODE_NAME).write_text("blue geese fly 7")
    take_code(boot, kept, fresh=True)
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("bluegeesefly7", 0o600)
    assert list(boot.iterdir()) == []
    assert read_kept_code(kept) == "bluegeesefly7"
    assert not read_kept_code(tmp_path / "none")


def test_a_power_cut_at_any_step_locks_nobody_out(tmp_path: Path) -> None:
    """The code is on the card or kept, until there is a site and it is kept; and then not on the card."""
    stores: list[Store] = []

    def new_device() -> None:
        folder = tmp_path / f"{len(stores)}"
        for name in ("boot", "data/page", "data/darkpipe"):
            (folder / name).mkdir(parents=True)
        (folder / "boot" / CODE_NAME).write_text("blue geese fly 7")
        (folder / "boot" / SEED_NAME).write_text(_SEED)
        stores.append(Store(folder / "data"))

    def boot() -> Path:
        return stores[-1].data.parent / "boot"

    new_device()
    for _ in at_every_step(lambda: take_over(boot(), stores[-1])):
        store = stores[-1]
        assert read_kept_code(store.data / KEPT) == "bluegeesefly7" or read_code(boot()) == "bluegeesefly7"
        assert (boot() / SEED_NAME).is_file() or store.site.exists()
        assert take_over(boot(), store) == ""
        assert read_kept_code(store.data / KEPT) == "bluegeesefly7"
        assert store.site.read_text() == _SEED
        assert not list(boot().iterdir())
        new_device()
    assert len(stores) > 5


def test_a_code_without_a_site_waits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / CODE_NAME).write_text("blue geese fly 7")
    assert take_over(tmp_path, Store(tmp_path / "data")) == ""
    assert (tmp_path / CODE_NAME).read_text() == "blue geese fly 7"


def test_a_code_that_would_not_do_goes_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "data/darkpipe").mkdir(parents=True)
    (tmp_path / CODE_NAME).write_text("short")
    (tmp_path / SEED_NAME).write_text(_SEED)
    assert "5 letters" in take_over(tmp_path, Store(tmp_path / "data"))
    assert not (tmp_path / CODE_NAME).exists()


def test_a_site_that_the_device_was_writing_leaves_nothing_on_the_card(tmp_path: Path) -> None:
    """Who lives there is nothing for whoever finds the card."""
    boot, store = tmp_path / "boot", Store(tmp_path / "data")
    boot.mkdir()
    (store.data / "darkpipe").mkdir(parents=True)

    def give_site() -> None:
        door = Door(tmp_path, lambda **_: nullcontext(boot), policies=lambda: ())
        door._keep(site())

    written = 0
    for cut in at_every_step(give_site):
        left = [path for path in boot.iterdir() if b"example.com" in path.read_bytes()]
        written += len(left)
        for number, path in enumerate(left):
            (tmp_path / f"kept-{cut}-{number}").hardlink_to(path)
        take_over(boot, store)
        assert list(boot.iterdir()) == []
        store.site.unlink(missing_ok=True)
    assert written
    assert not any(path.read_bytes().strip(b"\0") for path in tmp_path.glob("kept-*")), (
        "overwritten, and not only removed"
    )
