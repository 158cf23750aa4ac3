"""What a device does before its disk is unlocked, as a program."""

from __future__ import annotations

import sys

from builder.build import SOURCE

PYTHON = ("env", f"PYTHONPATH={SOURCE}", sys.executable)

ASK = """
import errno, sys, time
from home import boot_stage
from home.boot_stage import BootStage, BootStageError, decrypt, encrypt, tunnel
boot_stage._TRY = 2.5  # two ends on one machine
boot_stage._TOOL_SECONDS = 4.0
stage = BootStage.model_validate_json(sys.stdin.read())
try:
    with tunnel(stage, stage.addresses, lambda: False):
        if sys.argv[1] == "encrypt":
            print(encrypt(bytes.fromhex(sys.argv[2]), stage.url, sys.argv[3]))
        elif sys.argv[1] == "decrypt":
            print(decrypt(stage.key).hex())
        else:
            import select, socket
            asked, open_to_the_end = {}, []
            for place in sys.argv[2:]:
                address, _, port = place.rpartition(" ")
                asker = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                # By the tunnel, whatever the address; its own end refuses what is not for the relay's one address.
                asker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"unlock0")
                asker.setblocking(False)
                if asker.connect_ex((address, int(port))) == errno.EINPROGRESS:
                    asked[asker] = place
            end = time.monotonic() + 1.0
            while (left := end - time.monotonic()) > 0 and asked:
                for asker in select.select([], asked, [], left)[1]:
                    place = asked.pop(asker)
                    if asker.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        open_to_the_end.append(asker)
                        print(place)
except BootStageError as error:
    print("refused:", error)
"""
