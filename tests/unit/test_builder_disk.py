"""Profiles, the disk's layout, and the definitions that the device gets."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.build import SOURCE, check_unlock
from builder.cli import darkpipe
from builder.disk import Placed, disk_id, disk_size, place, root_partition_id, table_script
from builder.errors import BuildError
from builder.profile import Content, find_profile, load_profile
from builder.project import repart_definition
from builder.root import Root
from model.document import parse_site

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
ROOT = Root(Path("/nowhere"), "4f0c" * 16, 4096)


def test_every_profile_is_valid() -> None:
    names = [path.parent.name for path in PROFILES.glob("*/profile.yaml")]
    assert "x64" in names
    for name in names:
        assert load_profile(PROFILES / name).name == name


def test_unknown_profile_names_the_known_ones() -> None:
    for name in ("x65", "../profiles/x64", ""):
        with pytest.raises(BuildError, match="there is no profile") as caught:
            find_profile(PROFILES, name)
        assert "x64" in caught.value.hint
    assert find_profile(PROFILES, "x64").name == "x64"


@pytest.mark.parametrize(
    ("old", "new"),
    [("size: 1 GiB", "size: 1 gig"), ("type: esp", "type: efi"), ("architecture: amd64", "arch: amd64")],
)
def test_wrong_profile_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = (PROFILES / "x64/profile.yaml").read_text()
    assert old in text
    (tmp_path / "profile.yaml").write_text(text.replace(old, new))
    with pytest.raises(BuildError, match=r"profile\.yaml"):
        load_profile(tmp_path)


def test_layout_of_x64() -> None:
    profile = load_profile(PROFILES / "x64")
    assert [(row.number, row.partition.name, row.start, row.size) for row in place(profile)] == [
        (1, "esp", 2**20, 2**30),
        (2, "root-a", 2**20 + 2**30, 3 * 2**30),
    ]
    assert disk_size(profile) == 4 * 2**30 + 2 * 2**20


def test_layout_of_the_raspberry_pi() -> None:
    """All partitions are in the image; a logical one has room before it for the sector that describes it."""
    profile = load_profile(PROFILES / "raspberrypi")
    placed = place(profile)
    assert [(row.number, row.partition.name) for row in placed] == [
        (1, "boot"),
        (2, "boot-a"),
        (3, "boot-b"),
        (5, "root-a"),
        (6, "root-b"),
        (7, "state"),
        (8, "data"),
    ]
    gaps = [after.start - before.end for before, after in itertools.pairwise(placed)]
    assert gaps == [0, 0, 2**20, 2**20, 2**20, 2**20]
    assert disk_size(profile) == placed[-1].end
    script = table_script(profile, ROOT)
    assert f"label-id: 0x{disk_id(ROOT)}" in script
    assert "4 : " in script
    assert root_partition_id(profile, ROOT) == f"{disk_id(ROOT)}-05"


def test_what_the_device_is_told_of_its_disk() -> None:
    layout = load_profile(PROFILES / "raspberrypi").layout()
    assert layout.partitions == {place.partition.name: place.number for place in _placed("raspberrypi")}
    assert (layout.boot, set(layout.formats)) == ("boot", {"state", "data"})
    layout = load_profile(PROFILES / "x64").layout()
    assert (layout.boot, layout.partitions, set(layout.formats)) == ("esp", {}, {"state", "data"})


def _placed(name: str) -> tuple[Placed, ...]:
    return place(load_profile(PROFILES / name))


@pytest.mark.parametrize("name", ["x64", "raspberrypi"])
def test_all_fixed_sizes_fit_the_smallest_disk_with_room_for_mail(name: str) -> None:
    profile = load_profile(PROFILES / name)
    fixed = sum(partition.size or 0 for partition in profile.partitions)
    assert profile.smallest_disk - fixed > 6 * 10**9
    assert disk_size(profile) < profile.smallest_disk


def test_table_names_the_root_by_its_hash() -> None:
    script = table_script(load_profile(PROFILES / "x64"), ROOT)
    assert f"uuid={ROOT.partition_uuid}" in script
    assert ROOT.partition_uuid.replace("-", "") == ROOT.root_hash[:32]
    assert 'name="darkpipe-root-a"' in script


def test_repart_never_grows_a_partition_of_fixed_size() -> None:
    for partition in load_profile(PROFILES / "x64").partitions:
        definition = repart_definition(partition)
        assert ("SizeMaxBytes=" in definition) == (partition.name != "data")
        assert ("Format=" in definition) == (partition.name in ("state", "data"))


def test_contents() -> None:
    profile = load_profile(PROFILES / "x64")
    assert profile.partition(Content.ROOT).label == "darkpipe-root-a"
    assert profile.partition(Content.BOOT).label == "darkpipe-esp"


def test_tpm2_is_refused_where_nobody_measures_the_start() -> None:
    users = "users:\n  - {address: alice@example.com, password: generate}\n"
    text = f"version: 1\ndomains: [example.com]\nadmin: alice@example.com\ndisk: {{unlock: tpm2}}\n{users}"
    site = parse_site(text, "site.yaml")
    check_unlock(site, load_profile(SOURCE / "profiles/x64"))
    check_unlock(None, load_profile(SOURCE / "profiles/raspberrypi"))
    with pytest.raises(BuildError, match="which a device of the profile `raspberrypi` has not"):
        check_unlock(site, load_profile(SOURCE / "profiles/raspberrypi"))


@pytest.mark.parametrize("options", [("--profile", "raspberrypi"), ("--all",)])
@pytest.mark.parametrize("where", ["never", "always"])
def test_a_build_of_such_a_site_is_refused_before_anything_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], where: str
) -> None:
    """Passwords would be asked for, keys of a relay made, tools installed or a container prepared, all for nothing."""
    site = tmp_path / "site.yaml"
    site.write_text(
        "version: 1\ndomains: [example.com]\nrelays: [{address: mx.example.com}]\ndisk: {unlock: tpm2}\n"
        "users: [{address: alice@example.com}]\n"
    )
    monkeypatch.setenv("DARKPIPE_CONTAINER", where)
    monkeypatch.setattr("builder.build.open_workshop", lambda *_, **__: pytest.fail("tools are installed"))
    monkeypatch.setattr("builder.container.connected", lambda: pytest.fail("an engine is asked"))
    done = CliRunner().invoke(darkpipe, ["build", str(site), *options, "--output", str(tmp_path / "out")])
    assert isinstance(done.exception, BuildError)
    assert "tpm2" in str(done.exception)
    assert list(tmp_path.iterdir()) == [site]
