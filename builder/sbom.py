"""The bill of materials: SPDX 2.3 as JSON, one package for each `.deb` file and wheel, and one for the image."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import quote

from builder.lock import Lock, LockedPackage
from builder.packages import BUILD_EPOCH
from builder.version import VERSION
from builder.wheels import Wheel

SBOM_NAME = "sbom.spdx.json"
_UNKNOWN = "NOASSERTION"
_IMAGE = "SPDXRef-Image"


def sbom_text(lock: Lock, wheels: Iterable[Wheel], image: str) -> str:
    """Write the bill of materials of an image; the same for the same image.

    Args:
        wheels: Python libraries that the image holds beside Debian's.
        image: the image's generic id.
    """
    packages = [*(_package(package, lock.suite) for package in lock.packages), *map(_wheel, wheels)]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"darkpipe-{VERSION}-{lock.profile}",
        "documentNamespace": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'darkpipe sbom {image}')}",
        "creationInfo": {
            "created": datetime.fromtimestamp(BUILD_EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: darkpipe-{VERSION}"],
        },
        "packages": [_image(lock, image), *packages],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", _IMAGE),
            *(_relation(_IMAGE, "CONTAINS", str(package["SPDXID"])) for package in packages),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def sbom_packages(text: str) -> dict[str, str]:
    """Read back what `sbom_text` says about packages: package URL to the file's sha256.

    Raises:
        ValueError: it is no such document.
    """
    try:
        document = json.loads(text)
        return {
            package["externalRefs"][0]["referenceLocator"]: package["checksums"][0]["checksumValue"]
            for package in document["packages"]
            if package["SPDXID"] != _IMAGE
        }
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no SPDX document of ours: {error!r}") from error


def package_url(package: LockedPackage, suite: str) -> str:
    """Name a package in the form of package-url (type `deb`)."""
    name, version = quote(package.name, safe=".-_~"), quote(package.version, safe=".-_~")
    return f"pkg:deb/debian/{name}@{version}?arch={package.architecture}&distro={suite}"


def _package(package: LockedPackage, suite: str) -> dict[str, object]:
    return {
        "SPDXID": f"SPDXRef-Package-{_identifier(f'{package.name}-{package.architecture}')}",
        "name": package.name,
        "versionInfo": package.version,
        "supplier": "Organization: Debian",
        "sourceInfo": f"built from the source package {package.source}",
        **_file(package.sha256, package_url(package, suite)),
    }


def _wheel(wheel: Wheel) -> dict[str, object]:
    return {
        "SPDXID": f"SPDXRef-Wheel-{_identifier(f'{wheel.name}-{wheel.architecture}')}",
        "name": wheel.name,
        "versionInfo": wheel.version,
        "packageFileName": wheel.file,
        **_file(wheel.sha256, wheel.url),
    }


def _file(sha256: str, url: str) -> dict[str, object]:
    return {
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url},
        ],
    }


def _image(lock: Lock, image: str) -> dict[str, object]:
    return {
        "SPDXID": _IMAGE,
        "name": f"darkpipe-{lock.profile}",
        "versionInfo": VERSION,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": "Apache-2.0",
        "copyrightText": _UNKNOWN,
        "comment": f"Generic id {image}. The licence is that of our own part; each package has its own.",
    }


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _identifier(text: str) -> str:
    """Letters, digits, `.` and `-` are all that an SPDXID may have (SPDX 2.3 §7.2)."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda match: f"-{ord(match[0]):x}-", text)
