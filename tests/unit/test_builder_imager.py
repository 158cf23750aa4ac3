"""The Raspberry Pi Imager's repository file, held against what its published schema demands."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from builder.cli import darkpipe
from builder.errors import BuildError
from builder.imager import ICON, Offer, offer_of, repository
from builder.sums import check_sums, write_sums

_Url = Annotated[str, Field(pattern=r"^(https?|file)://\S+$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Item(BaseModel):
    """An operating system with an image: os-list-schema.json, first alternative, and what schema-notes.md adds."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    description: str
    icon: _Url
    url: _Url
    extract_size: Annotated[int, Field(gt=0)]
    extract_sha256: _Sha256
    image_download_size: Annotated[int, Field(gt=0)]
    release_date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    devices: Annotated[list[Literal["pi3-64bit", "pi4-64bit", "pi5-64bit"]], Field(min_length=1)]
    image_download_sha256: _Sha256 | None = None
    init_format: Literal["", "none", "systemd", "cloudinit", "cloudinit-rpi", "rpi-preseed"] = ""
    website: _Url | None = None
    architecture: Literal["armel", "armhf", "armv8"] | None = None
    bmap_url: _Url | None = None


class _Device(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    description: str
    tags: list[str]
    icon: str = ""
    matching_type: Literal["exclusive", "inclusive"] = "exclusive"
    architecture: str = ""


class _Imager(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    devices: list[_Device] = []


class _Repository(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    os_list: list[_Item]
    imager: _Imager = _Imager()


_SCHEMA: TypeAdapter[_Repository] = TypeAdapter(_Repository)
OFFER = Offer(
    version="0.1.0",
    image="https://example.org/darkpipe.img.xz",
    block_map="https://example.org/darkpipe.img.bmap",
    icon="https://example.org/icon.png",
    size=8_930_721_792,
    sha256="a" * 64,
    packed_size=350_179_360,
    packed_sha256="b" * 64,
    released=1_793_491_200,
)


def _written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(repository(OFFER))
    return found


def test_the_file_is_as_the_schema_has_it() -> None:
    found = _SCHEMA.validate_json(repository(OFFER))
    (item,) = found.os_list
    assert (item.extract_size, item.image_download_size) == (OFFER.size, OFFER.packed_size)
    assert date.fromisoformat(item.release_date) == date(2026, 11, 1)
    assert item.init_format == "cloudinit"
    assert {tag for device in found.imager.devices for tag in device.tags} == set(item.devices)


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["os_list"][0].pop(key)


def _with(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["os_list"][0].update({key: value})


_NEEDED = ("name", "description", "icon", "url", "extract_size", "extract_sha256", "image_download_size")


@pytest.mark.parametrize(
    "change",
    [
        *map(_without, (*_NEEDED, "release_date", "devices")),
        _with("extract_size", "8930721792"),
        _with("extract_size", 0),
        _with("extract_sha256", "A" * 64),
        _with("extract_sha256", "a" * 63),
        _with("image_download_size", 1.5),
        _with("release_date", "1.11.2026"),
        _with("devices", "pi5-64bit"),
        _with("devices", ["pi5"]),
        _with("devices", []),
        _with("init_format", "cloud-init"),
        _with("url", "darkpipe.img.xz"),
        _with("architecture", "arm64"),
        lambda data: data.pop("os_list"),
        lambda data: data.update(os_list={}),
        lambda data: data["imager"]["devices"][0].pop("tags"),
    ],
)
def test_a_file_that_is_not_is_found(change: Callable[[dict[str, Any]], object]) -> None:
    data = _written()
    _SCHEMA.validate_json(json.dumps(data))
    change(data)
    with pytest.raises(ValidationError):
        _SCHEMA.validate_json(json.dumps(data))


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result's folder with a tiny image."""
    folder = tmp_path / "darkpipe-0.1.0-raspberrypi-abc"
    folder.mkdir()
    content = bytes(3_000_000) + b"darkpipe"
    (folder / f"{folder.name}.img.xz").write_bytes(lzma.compress(content[:1000]) + lzma.compress(content[1000:]))
    (folder / f"{folder.name}.img.bmap").write_text("map")
    ids = {"generic": "ab" * 32, "seeded": "ab" * 32}
    manifest = {"version": "0.1.0", "loader": "raspberry-pi", "ids": ids, "image": {"bytes": len(content)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_sums(folder)
    return folder


def test_sizes_and_sums_are_those_of_the_files(result: Path) -> None:
    offer = offer_of(result, None, lambda *_: None)
    packed = next(result.glob("*.xz")).read_bytes()
    unpacked = lzma.decompress(packed)
    assert (offer.size, offer.sha256) == (len(unpacked), hashlib.sha256(unpacked).hexdigest())
    assert (offer.packed_size, offer.packed_sha256) == (len(packed), hashlib.sha256(packed).hexdigest())
    assert offer.image.startswith("file:///")
    assert Path(offer.image.removeprefix("file://")).read_bytes() == packed
    _SCHEMA.validate_json(repository(offer))


def test_the_command_writes_it_beside_the_folder(result: Path) -> None:
    done = CliRunner().invoke(darkpipe, ["imager", str(result), "--url", "https://example.org/x/"])
    assert done.exit_code == 0, done.output
    written = result.parent / f"{result.name}.rpi-imager-manifest"
    assert done.stdout.splitlines()[-1] == str(written)
    (item,) = _SCHEMA.validate_json(written.read_text()).os_list
    assert item.url == f"https://example.org/x/{result.name}.img.xz"
    assert item.icon == "https://example.org/x/icon.png"
    assert (result.parent / "icon.png").read_bytes() == ICON.read_bytes()


def test_an_image_with_a_seed_is_for_its_owner_and_not_for_the_world(result: Path) -> None:
    manifest = result / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"seeded": "{"ab" * 32}"', f'"seeded": "{"cd" * 32}"'))
    (result / "SHA256SUMS").unlink()
    write_sums(result)
    with pytest.raises(BuildError, match="for one device") as refused:
        offer_of(result, "https://example.org/x", lambda *_: None)
    assert "--without-site" in refused.value.hint
    assert offer_of(result, None, lambda *_: None).image.startswith("file:///")


def test_a_release_stays_as_its_sums_say(result: Path, tmp_path: Path) -> None:
    release = tmp_path / "elsewhere/release"
    release.mkdir(parents=True)
    result = result.rename(release / result.name)
    write_sums(release)
    done = CliRunner().invoke(darkpipe, ["imager", str(result)])
    assert done.exit_code == 0, done.output
    assert (release.parent / f"{result.name}.rpi-imager-manifest").is_file()
    assert check_sums(release) == []


def test_the_icon_is_a_png_of_40_pixels() -> None:
    head = ICON.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (40, 40)


def test_what_is_no_image_for_the_pi_is_refused(result: Path) -> None:
    manifest = result / "manifest.json"
    manifest.write_text(manifest.read_text().replace("raspberry-pi", "systemd-boot"))
    write_sums(result)
    with pytest.raises(BuildError, match="the Raspberry Pi Imager writes others"):
        offer_of(result, None, lambda *_: None)


def test_a_damaged_image_is_refused(result: Path) -> None:
    image = next(result.glob("*.xz"))
    image.write_bytes(image.read_bytes()[:-20])
    with pytest.raises(BuildError, match="is damaged"):
        offer_of(result, None, lambda *_: None)
    write_sums(result)
    with pytest.raises(BuildError, match=r"is damaged|unpacks to"):
        offer_of(result, None, lambda *_: None)
