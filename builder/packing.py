"""Compressed images: what they are compressed with, and how one is put together from parts that are kept."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from functools import cache
from pathlib import Path

from builder.errors import BuildError
from builder.frames import end_of_content, zero_frame
from builder.sandbox import Sandbox
from builder.xz import stored_stream

_ZEROS = 2**26


class Packing(StrEnum):
    """Formats of compressed images, by their file names' endings.

    Of both, a file that is put together from several finished parts is valid: frames of zstd (RFC 8878), streams of xz.
    """

    ZSTD = "zst"
    XZ = "xz"

    @property
    def unpack(self) -> tuple[str, ...]:
        """The command that unpacks its standard input to its standard output."""
        return {Packing.ZSTD: ("zstd", "-q", "-d", "-c"), Packing.XZ: ("xz", "-q", "-d", "-c", "-T0")}[self]

    @classmethod
    def of(cls, path: Path) -> Packing:
        """Tell what a file is compressed with by its name.

        Raises:
            ValueError: it has the ending of none.
        """
        return cls(path.suffix.removeprefix("."))


def find_image(folder: Path) -> Path:
    """Find the compressed image in a result's folder.

    Raises:
        BuildError: there is none, or more than one.
    """
    images = sorted(path for packing in Packing for path in folder.glob(f"*.img.{packing}"))
    if not images and (parts := sorted({path.parent.name for path in folder.glob("*/*.img.*")})):
        raise BuildError(f"{folder} is a release of several platforms", f"name one of its folders: {', '.join(parts)}")
    if len(images) != 1:
        raise BuildError(f"{folder} holds {len(images)} images", "name a folder that `./darkpipe build` printed")
    return images[0]


def unpack_image(image: Path, target: Path, tools: Sandbox) -> None:
    """Unpack an image, with holes for its zeros.

    Args:
        target: a new file below the cache.

    Raises:
        ToolError: it is damaged.
    """
    if Packing.of(image) is Packing.ZSTD:
        command = ["zstd", "-q", "-d", "--sparse", "-o", tools.inside(target)]
    else:
        # xz(1) makes holes where its output is a file of its own.
        command = ["sh", "-euc", 'exec xz -q -d -c -T0 >"$1"', "unpack", tools.inside(target)]
    with image.open("rb") as stream:
        tools.run(command, stdin=stream)


def pack(source: Path, target: Path, size: int, tools: Sandbox, packing: Packing, *, stored: bool = False) -> None:
    """Compress a file, as if it were followed by zeros up to `size` bytes.

    Args:
        source: the content; zeros at its end, in whole MiB, cost nothing.
        target: becomes a compressed file, the same for the same content.
        stored: whether the content is compressed in itself, so that more work would gain next to nothing.
    """
    used = end_of_content(source)
    if packing is Packing.XZ and stored:
        with target.open("wb") as file:
            file.writelines(stored_stream(source, used))
    else:
        # Blocks of a stated size, so that the result does not follow the number of processors.
        command = {Packing.ZSTD: "zstd -q -3 -T0", Packing.XZ: "xz -q -c -1 -T2 --block-size=4MiB"}[packing]
        script = f'head -c "$3" "$1" | {command} >"$2"'
        arguments = (tools.inside(source), tools.inside(target), str(used))
        if used:
            tools.run(["sh", "-euc", script, "compress", *arguments])
        else:
            target.touch()
    with target.open("ab") as file:
        file.write(zeros(size - used, tools, packing))


def zeros(size: int, tools: Sandbox, packing: Packing) -> bytes:
    """Give a compressed file that unpacks to zeros; 0 bytes of them are no file at all."""
    if packing is Packing.ZSTD:
        return zero_frame(size)
    full, rest = divmod(size, _ZEROS)
    whole = _zero_stream(_ZEROS, tools) * full if full else b""
    return whole + (_zero_stream(rest, tools) if rest else b"")


@cache
def _zero_stream(size: int, tools: Sandbox) -> bytes:
    with tempfile.TemporaryFile() as file:
        tools.run(["sh", "-euc", 'head -c "$1" /dev/zero | xz -q -c -1 -T1', "zeros", str(size)], stdout=file)
        file.seek(0)
        return file.read()
