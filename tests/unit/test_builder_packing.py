"""Parts of images as xz streams and zstd frames, as the real unpackers read them."""

from __future__ import annotations

import lzma
import random
import subprocess
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.packing import Packing, find_image, pack
from builder.sandbox import Sandbox
from builder.xz import stored_stream


class _Host(Sandbox):
    """Runs the computer's own xz and zstd, rather than those of a tools tree."""

    def command(self, argv: object, memory: str = "1g") -> tuple[str, ...]:
        assert isinstance(argv, (list, tuple)), memory
        return tuple(argv)

    def inside(self, path: Path) -> str:
        return str(path)


@pytest.fixture
def tools(tmp_path: Path) -> Sandbox:
    return _Host(tmp_path, tmp_path)


def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [1, 4, 65535, 65536, 65537, 3 * 65536, 1_000_003])
def test_a_stored_stream_unpacks_to_what_it_was_made_from(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(_content(size))
    stream = b"".join(stored_stream(source, size))
    assert lzma.decompress(stream, lzma.FORMAT_XZ) == _content(size)
    assert len(stream) < size * 1.001 + 100
    # The strict reader, with every check sum and the index.
    subprocess.run(["xz", "--test"], input=stream, check=True)


def test_no_content_is_no_stream(tmp_path: Path) -> None:
    assert b"".join(stored_stream(tmp_path / "absent", 0)) == b""


def test_a_changed_octet_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(_content(100_000))
    stream = bytearray(b"".join(stored_stream(source, 100_000)))
    for at in (2, 8, 14, 50_000, len(stream) - 40, len(stream) - 3):
        damaged = bytearray(stream)
        damaged[at] ^= 1
        with pytest.raises(lzma.LZMAError):
            lzma.decompress(bytes(damaged))


@pytest.mark.parametrize("stored", [False, True])
def test_parts_behind_one_another_are_one_file(tmp_path: Path, tools: Sandbox, stored: bool) -> None:
    source, empty = tmp_path / "source", tmp_path / "empty"
    source.write_bytes(_content(300_000))
    empty.touch()
    pack(source, tmp_path / "one", 2**20 + 300_000, tools, Packing.XZ, stored=stored)
    pack(empty, tmp_path / "two", 2**27 + 5, tools, Packing.XZ)
    packed = b"".join((tmp_path / name).read_bytes() for name in ("one", "two"))
    expected = _content(300_000) + bytes(2**20 + 2**27 + 5)
    assert lzma.decompress(packed) == expected
    assert len(packed) < 400_000
    assert subprocess.run(["xz", "-dc"], input=packed, stdout=subprocess.PIPE, check=True).stdout == expected


def test_the_number_of_processors_does_not_matter(tmp_path: Path, tools: Sandbox) -> None:
    source = tmp_path / "source"
    source.write_bytes(_content(100) * 300_000)
    pack(source, tmp_path / "two", 30_000_000, tools, Packing.XZ)
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.execvp(sys.argv[1], sys.argv[1:])"
    )

    class _OneProcessor(_Host):
        def command(self, argv: object, memory: str = "1g") -> tuple[str, ...]:
            return ("python3", "-c", script, *super().command(argv, memory))

    pack(source, tmp_path / "one", 30_000_000, _OneProcessor(tmp_path, tmp_path), Packing.XZ)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_images_are_found_by_their_ending(tmp_path: Path) -> None:
    for packing in Packing:
        folder = tmp_path / packing
        folder.mkdir()
        (folder / f"x.img.{packing}").touch()
        assert Packing.of(find_image(folder)) is packing
    with pytest.raises(BuildError, match="several platforms") as caught:
        find_image(tmp_path)
    assert "xz, zst" in caught.value.hint
    with pytest.raises(ValueError, match="gz"):
        Packing.of(Path("x.img.gz"))
