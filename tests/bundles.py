"""Bundles for tests: the real one, and others that differ from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from builder.build import SOURCE
from builder.bundle import make_bundle, source_files
from builder.cache import Cache
from builder.wheels import locked_wheels, wheel_files
from home.bundle import Carried

AGENT = """\
import json
import shutil
import socket
import subprocess
from http import HTTPStatus
from pathlib import Path

from model.control import PROTOCOL, QueueSettings
from relay.control import Response
from relay.control_server import ControlServer
from relay.fence import Identity
from relay.tunnel_file import find_tunnel
from relay.updates import Updates, apply_settings

OPENSSL = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=test".split()
tunnel = find_tunnel(Path("/"))
updates = Updates()


def answer(request):
    if request.path == "/settings":
        settings = Path("/var/lib/darkpipe/config/settings.json")
        settings.write_bytes(request.message(QueueSettings).to_json())
        shutil.chown(settings, group="darkpipe-queue")
        settings.chmod(0o640)
        for name in ("relay", "home"):
            pem = f"/var/lib/darkpipe/control/{name}.pem"
            subprocess.run([*OPENSSL, "-keyout", pem, "-out", f"{pem}.crt"], check=True)
            key = Path(pem).read_bytes() if name == "relay" else b""
            Path(pem).write_bytes(key + Path(f"{pem}.crt").read_bytes())
        apply_settings()
        return Response(HTTPStatus.OK)
    return updates(request)


with socket.create_server((str(tunnel.addresses.relay6), 2601), family=socket.AF_INET6) as listener:
    ControlServer(listener, lambda: None, Identity, answer).serve()
"""
"""An agent that knows home by the tunnel, and pairs with nobody."""


def other_bundle(folder: Path, changes: Mapping[str, str | None], version: str = "") -> Carried:
    """Make the bundle of this checkout, with some files written anew or left out.

    Args:
        folder: a new one.
        changes: texts by the files' paths in the checkout.
        version: of DarkPipe, if it shall say another one.
    """
    source = folder / "source"
    for file in source_files(SOURCE):
        target = source / file.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for name, text in changes.items():
        (source / name).unlink(missing_ok=True)
        if text is not None:
            (source / name).write_text(text)
    path = folder / "bundle.tar"
    options = {"version": version} if version else {}
    made = make_bundle(source, locked_wheels(), wheel_files(Cache.default()), folder / "work", path, **options)
    return Carried(path, str(made["id"]), str(made["version"]))
