"""Checking a result's folder: that its files fit together, and what is inside the image fits what they say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.bmap import BLOCK, BlockMap, digest_of, parse_map
from builder.digests import content_id
from builder.errors import BuildError, ToolError
from builder.lock import Installed, Lock, installed_packages, read_lock
from builder.packages import LOCK_NAME
from builder.packing import Packing, unpack_image
from builder.profile import Content, Loader, PartitionType
from builder.raspberry_pi import COMMAND_LINE
from builder.release import release_id, results
from builder.sandbox import Sandbox
from builder.sbom import SBOM_NAME, package_url, sbom_packages
from builder.sums import MANIFEST_NAME, SIGNATURE_NAME, SUMS_NAME, check_sums, signer
from model.layout import Table

_CHUNK = 2**20
_SECTOR = 512
_EXTENDED = "f"
"""The type of the partition that holds the logical ones."""

PROVES = """\
What this proves: image, block map, partitions, root file system, bill of materials and lock belong together, and the
device will refuse a root that differs in a single block. With a good signature: who holds that key has made them.
What it does not prove: that Debian's packages are free of faults, that the signer's computer was clean, or that the
sources give these bits (build the same version yourself and compare for that). Without a signature, whoever can
change one file can change all of them."""


class Fault(Exception):
    """Something is not as the folder says."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    subject: str
    good: bool
    text: str


def verify(folder: Path, tools: Sandbox, work: Path, allowed_signers: Path | None) -> Iterator[Finding]:
    """Check a folder, step by step; a step that needs an earlier one's result is left out when that has failed.

    Args:
        work: an empty folder below the cache with room for the unpacked content.
        allowed_signers: None does not judge the signature.
    """
    yield _finding("sums", lambda: _sums(folder))
    yield _finding("signature", lambda: _signature(folder, allowed_signers))
    if not (parts := _results(folder)):
        yield from _image_findings(folder, tools, work)
        return
    yield _finding("release", lambda: _release(folder, parts))
    for name in sorted(parts):
        own = work / content_id({"result": name})[:12]
        own.mkdir()
        for finding in _image_findings(folder / Path(name).name, tools, own):
            yield Finding(f"{Path(name).name}: {finding.subject}", finding.good, finding.text)


def _image_findings(folder: Path, tools: Sandbox, work: Path) -> Iterator[Finding]:
    try:
        image = _Image(folder, tools, work)
    except (Fault, BuildError, OSError, TypeError) as fault:
        yield Finding("image", False, str(fault))
        return
    yield Finding("image", True, f"unpacks to {image.raw.stat().st_size:,} bytes, as the manifest says")
    for subject, check in image.checks():
        yield _finding(subject, check)
    image.raw.unlink()


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return results(folder)
    except BuildError:  # said where the manifest is checked
        return {}


def _release(folder: Path, parts: Mapping[str, Mapping[str, Any]]) -> str:
    # An image that the manifest does not name would be in the sums, and looked at by nobody.
    there = {path.name for path in folder.iterdir()} - {MANIFEST_NAME, SUMS_NAME, SIGNATURE_NAME}
    if wrong := sorted(there ^ set(parts)):
        raise Fault(f"the folder does not have what {MANIFEST_NAME} of the release names: {', '.join(wrong)}")
    for name, stated in parts.items():
        if _read_manifest(folder / name / MANIFEST_NAME) != stated:
            raise Fault(f"{name} has another manifest than {MANIFEST_NAME} of the release says")
    if release_id(parts) != _get(_read_manifest(folder / MANIFEST_NAME), "id"):
        raise Fault("the release's id does not follow from those of its images")
    return f"{', '.join(str(_get(part, 'profile')) for part in parts.values())}: one manifest for all"


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, check())
    except (Fault, BuildError, OSError) as fault:
        return Finding(subject, False, str(fault))
    except (ValueError, LookupError, TypeError, StopIteration) as error:  # the folder may be anybody's
        return Finding(subject, False, f"cannot be read: {error!r}")


def _sums(folder: Path) -> str:
    if faults := check_sums(folder):
        raise Fault("; ".join(faults))
    return "every file is as SHA256SUMS says, none is missing, none was added"


def _signature(folder: Path, allowed_signers: Path | None) -> str:
    if allowed_signers is not None:
        return f"good, by {signer(folder, allowed_signers)}"
    if (folder / SIGNATURE_NAME).exists():
        return "there is one; --allowed-signers FILE would tell whose it is, so it proves nothing here"
    return "there is none"


class _Image:
    """The unpacked image and what the folder says about it."""

    def __init__(self, folder: Path, tools: Sandbox, work: Path) -> None:
        self._folder, self._tools, self._work = folder, tools, work
        self._manifest = _read_manifest(folder / MANIFEST_NAME)
        self._name = str(_get(self._manifest, "image", "file"))
        stem = f"darkpipe-{self._get('version')}-{self._get('profile')}-{self._get('ids', 'seeded')[:12]}"
        if self._name not in {f"{stem}.img.{packing}" for packing in Packing}:
            raise Fault(f"the manifest names the image {self._name}; by its version, profile and id it is {stem}.img")
        self.raw = work / "image.raw"
        unpack_image(folder / self._name, self.raw, tools)
        if self.raw.stat().st_size != self._get("image", "bytes"):
            raise Fault(f"the image has {self.raw.stat().st_size:,} bytes; expected {self._get('image', 'bytes'):,}")
        self._root = work / "root.erofs"

    def checks(self) -> tuple[tuple[str, Callable[[], str]], ...]:
        """All checks of the content, in order."""
        return (
            ("block map", self._block_map),
            ("partitions", self._partitions),
            ("verified root", self._verity),
            ("packages", self._packages),
        )

    def _get(self, *keys: str) -> Any:
        return _get(self._manifest, *keys)

    def _block_map(self) -> str:
        path = (self._folder / self._name).with_suffix(".bmap")
        try:
            block_map = parse_map(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Fault(f"{path.name}: {error}") from error
        if block_map.image_size != self.raw.stat().st_size:
            raise Fault(f"{path.name} is for an image of {block_map.image_size:,} bytes")
        _compare(self.raw, block_map)
        return f"{block_map.mapped * BLOCK:,} bytes are mapped and as they should be; all others are zero"

    def _partitions(self) -> str:
        output = self._work / "table.json"
        with output.open("wb") as file:
            warnings = self._tools.run(["sfdisk", "--json", self._tools.inside(self.raw)], stdout=file)
        if warnings:
            raise Fault(f"the partition table is damaged: {warnings}")
        found = json.loads(output.read_text())["partitiontable"]
        table, stated = Table(self._get("table")), self._get("partitions")
        if found["label"] != table:
            raise Fault(f"the partition table is a {found['label']}; the manifest says {table}")
        if table is Table.DOS and found["id"] != f"0x{self._get('root', 'hash')[:8]}":
            raise Fault(f"the disk has the identifier {found['id']}, which does not follow from the root hash")
        rows = [_row(row, table) for row in found["partitions"] if row["type"] != _EXTENDED]
        wanted = [
            (
                row["number"] if table is Table.DOS else row["label"],
                row["start"],
                row["bytes"],
                PartitionType(row["type"]).code(table),
            )
            for row in stated
        ]
        if rows != wanted:
            raise Fault(f"the image has the partitions {rows}; the manifest says {wanted}")
        return f"{', '.join(row['label'] for row in stated)}: as in the manifest"

    def _start(self, content: Content) -> int:
        return int(next(row["start"] for row in self._get("partitions") if row["content"] == content))

    def _verity(self) -> str:
        start = self._start(Content.ROOT)
        _copy_range(self.raw, self._root, start, self._get("root", "bytes"))
        words = dict(word.partition("=")[::2] for word in self._command_line().split())
        root_hash, stated = words.get("darkpipe.hash", ""), self._get("root", "hash")
        if root_hash != stated:
            raise Fault(f"the kernel's command line has the root hash {root_hash}; the manifest says {stated}")
        inside = self._tools.inside(self._root)
        offset = words.get("darkpipe.tree", "")
        try:
            self._tools.run(["veritysetup", "verify", f"--hash-offset={offset}", inside, inside, root_hash])
        except ToolError as error:
            raise Fault(f"the root file system does not fit its root hash: {error.output}") from error
        return f"every block fits the root hash {root_hash[:16]}…, which kernel and manifest name"

    def _command_line(self) -> str:
        partition = f"{self._tools.inside(self.raw)}@@{self._start(Content.BOOT)}"
        if self._get("loader") == Loader.RASPBERRY_PI:
            text = self._work / COMMAND_LINE
            self._tools.run(["mcopy", "-i", partition, f"::/{COMMAND_LINE}", self._tools.inside(text)])
            return text.read_text(encoding="utf-8")
        kernel = self._work / "kernel.efi"
        path = f"::/EFI/Linux/darkpipe-{self._get('version')}.efi"
        self._tools.run(["mcopy", "-i", partition, path, self._tools.inside(kernel)])
        output = self._work / "kernel.json"
        with output.open("wb") as file:
            self._tools.run(["ukify", "--json=short", "inspect", self._tools.inside(kernel)], stdout=file)
        return str(json.loads(output.read_text())[".cmdline"]["text"])

    def _packages(self) -> str:
        lock = read_lock(self._folder / LOCK_NAME)
        installed = installed_packages(self._read("/var/lib/dpkg/status"))
        locked = {Installed(one.name, one.version, one.architecture) for one in lock.packages}
        if difference := _difference(installed, locked):
            raise Fault(f"the image's packages are not those of {LOCK_NAME}: {difference}")
        manifest = {f"{one.name}:{one.architecture}": one.version for one in lock.packages}
        if self._get("packages") != manifest:
            raise Fault(f"the packages of {MANIFEST_NAME} are not those of {LOCK_NAME}")
        wheels = self._wheels()
        if self._get("wheels") != wheels:
            raise Fault(f"the wheels of {MANIFEST_NAME} are not those in the image")
        _check_sbom(self._folder / SBOM_NAME, lock, wheels, self._get("ids", "generic"))
        return f"{len(installed)} are in the image, in {LOCK_NAME}, {SBOM_NAME} and {MANIFEST_NAME} alike"

    def _wheels(self) -> dict[str, str]:
        """Give the URLs and digests of the Python libraries that the image names as its own."""
        wheels = json.loads(self._read("/usr/share/darkpipe/wheels.json"))
        return {str(url): str(digest) for url, digest in wheels.items()}

    def _read(self, path: str) -> str:
        """Give the text of a file in the image's root."""
        target = self._work / "read"
        with target.open("wb") as file:
            self._tools.run(["dump.erofs", "--cat", f"--path={path}", self._tools.inside(self._root)], stdout=file)
        return target.read_text(encoding="utf-8")


def _row(row: Mapping[str, Any], table: Table) -> tuple[Any, int, int, str]:
    """Give a row of sfdisk(8)'s JSON: number or label, start and size in bytes, type."""
    name = int(re.findall(r"\d+$", row["node"])[0]) if table is Table.DOS else row["name"]
    return name, row["start"] * _SECTOR, row["size"] * _SECTOR, row["type"].lower()


def _check_sbom(path: Path, lock: Lock, wheels: Mapping[str, str], image: str) -> None:
    text = path.read_text(encoding="utf-8")
    try:
        stated = sbom_packages(text)
    except ValueError as error:
        raise Fault(f"{path.name}: {error}") from error
    if stated != {package_url(one, lock.suite): one.sha256 for one in lock.packages} | {**wheels}:
        raise Fault(f"the packages of {path.name} are not those of {LOCK_NAME} and the image's wheels")
    if image not in text:
        raise Fault(f"{path.name} is for another image")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Fault(f"{path.name} is no manifest: {error}") from error
    if not isinstance(manifest, dict):
        raise Fault(f"{path.name} is no manifest")
    return manifest


def _get(data: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            raise Fault(f"{MANIFEST_NAME} does not say {'.'.join(keys)}")
        data = data[key]
    return data


def _difference(found: frozenset[Installed], wanted: set[Installed]) -> str:
    only = sorted(f"{one.name} {one.version} is in one only" for one in found ^ wanted)
    return ", ".join(only[:5]) + (f" and {len(only) - 5} more" if len(only) > 5 else "")


def _compare(raw: Path, block_map: BlockMap) -> None:
    """Check that mapped ranges have their digests, and that there is nothing but zeros between them."""
    position = 0
    with raw.open("rb") as file:
        for entry in block_map.ranges:
            _check_zeros(file.fileno(), position, entry.start)
            file.seek(entry.start)
            if digest_of(file, entry.size) != entry.sha256:
                raise Fault(f"blocks {entry.first}-{entry.last} of the image do not have the map's digest")
            position = entry.start + entry.size
        _check_zeros(file.fileno(), position, block_map.image_size)


def _check_zeros(descriptor: int, start: int, end: int) -> None:
    """Look at what is no hole of a sparse file (lseek(2), SEEK_DATA)."""
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        stop = min(end, os.lseek(descriptor, start, os.SEEK_HOLE))
        while start < stop:
            chunk = os.pread(descriptor, min(_CHUNK, stop - start), start)
            if chunk.strip(b"\0"):
                raise Fault(f"the image has content near byte {start:,} that the map leaves out")
            start += len(chunk)


def _copy_range(source: Path, target: Path, start: int, size: int) -> None:
    with source.open("rb") as file, target.open("wb") as copy:
        file.seek(start)
        while size and (chunk := file.read(min(size, _CHUNK))):
            copy.write(chunk)
            size -= len(chunk)


def safe_line(finding: Finding) -> str:
    """Put a finding into words without what a terminal would obey: the folder may be anybody's, names in it too.

    Further lines are indented, so that none of them looks like another finding.
    """
    subject, text = (re.sub(r"[^\x20-\x7e\n…]", "�", part) for part in (finding.subject, finding.text))
    return f"{subject}: {text}".replace("\n", "\n     ")
