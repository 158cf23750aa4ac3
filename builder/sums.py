"""SHA256SUMS of a result's folder, and its signature with an SSH key (ssh-keygen(1), -Y sign)."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from builder.digests import file_digest
from builder.errors import BuildError, ToolError
from builder.run import run

MANIFEST_NAME = "manifest.json"
SUMS_NAME = "SHA256SUMS"
SIGNATURE_NAME = "SHA256SUMS.sig"
NAMESPACE = "darkpipe-release"
"""A signature that was made for something else with the same key is none for a release (PROTOCOL.sshsig)."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a result's folder.

    Raises:
        BuildError: it is no such folder.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(
            f"{folder} has no manifest: {error}", "name a folder that `./darkpipe build` printed"
        ) from error
    if not isinstance(manifest, dict):
        raise BuildError(f"{folder / MANIFEST_NAME} is no manifest", "copy or build the image again")
    return manifest


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS as sha256sum(1) reads it, for all files in a folder and its folders."""
    lines = [f"{file_digest(folder / name)}  {name}\n" for name in sorted(_files(folder))]
    (folder / SUMS_NAME).write_text("".join(lines))


def check_sums(folder: Path) -> list[str]:
    """Compare a folder with its SHA256SUMS; each difference in words, none when all is well."""
    listed: dict[str, str] = {}
    try:
        lines = (folder / SUMS_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return [f"{SUMS_NAME} is missing or cannot be read"]
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not match or match[2] in listed:
            return [f"{SUMS_NAME} has a line that is no sum of a file: {line[:80]!r}"]
        listed[match[2]] = match[1]
    there = _files(folder) - {SUMS_NAME, SIGNATURE_NAME}
    faults = [f"{name} is missing" for name in sorted(set(listed) - there)]
    faults += [f"{name} is in the folder, and not in {SUMS_NAME}" for name in sorted(there - set(listed))]
    for name in sorted(there & set(listed)):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            faults.append(f"{name} is no regular file")
        elif file_digest(path) != listed[name]:
            faults.append(f"{name} is not what {SUMS_NAME} says")
    return faults


def _files(folder: Path) -> set[str]:
    """Name everything that is no folder, relative to the folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def sign(folder: Path, key: Path) -> Path:
    """Sign SHA256SUMS; ssh-keygen asks for a passphrase itself, or takes the key from the agent.

    Args:
        key: a private key, or the public key of one in ssh-agent(1) or on a security token.

    Raises:
        BuildError: the folder does not fit its sums, or there is no such key.
    """
    if faults := check_sums(folder):
        raise BuildError(f"{folder} is not signed: {'; '.join(faults)}", "sign only what you have just built")
    target = folder / SIGNATURE_NAME
    try:
        with tempfile.TemporaryDirectory() as work:
            # ssh-keygen puts the signature beside the file, and asks before it replaces one.
            copy = Path(work) / SUMS_NAME
            copy.write_bytes((folder / SUMS_NAME).read_bytes())
            run(["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(copy)])
            made = target.with_name(f".{target.name}.new")
            made.write_bytes((Path(work) / SIGNATURE_NAME).read_bytes())
            made.replace(target)
    except ToolError as error:
        raise BuildError(f"ssh-keygen could not sign:\n{error.output}", "is this a key that you have?") from error
    return target


def signer(folder: Path, allowed_signers: Path) -> str:
    """Verify the signature against a file of allowed signers (ssh-keygen(1), ALLOWED SIGNERS).

    Returns:
        Who has signed, as that file names them.

    Raises:
        BuildError: there is no signature, it is for something else, or nobody in the file has made it.
    """
    options = ["-f", str(allowed_signers), "-s", str(folder / SIGNATURE_NAME)]
    if not (folder / SIGNATURE_NAME).is_file():
        raise BuildError(f"there is no {SIGNATURE_NAME}")
    try:
        found = run(["ssh-keygen", "-Y", "find-principals", *options])
        principal = found.splitlines()[0]
        with (folder / SUMS_NAME).open("rb") as sums:
            run(["ssh-keygen", "-Y", "verify", "-I", principal, "-n", NAMESPACE, *options], stdin=sums)
    except ToolError as error:
        raise BuildError(f"the signature is not good: {error.output or 'its key is in no line'}") from error
    return principal
