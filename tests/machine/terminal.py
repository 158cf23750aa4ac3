"""Run a program on a terminal of its own that survives a hang-up; its text is given to `python3 -c` inside a machine.

login(1) hangs its terminal up before it asks for a name (vhangup(2)). Until it has opened it again, reading from the
other end gives EIO, after which script(1) never looks again.
"""

from __future__ import annotations

import errno
import os
import pty
import select
import sys
import time
import tty


def main() -> None:
    """Run the command line, and pass on what is typed and shown until the program ends."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[1], sys.argv[1:])
    tty.setraw(0)
    while True:
        ready, _, _ = select.select([0, terminal], [], [])
        if 0 in ready:
            typed = os.read(0, 4096)
            if not typed:
                return  # the terminal goes with us, and the program has its SIGHUP
            os.write(terminal, typed)
        if terminal in ready:
            try:
                os.write(1, os.read(terminal, 4096))
            except OSError as error:
                if error.errno != errno.EIO or os.waitpid(child, os.WNOHANG)[0]:
                    return
                time.sleep(0.02)


if __name__ == "__main__":
    main()
