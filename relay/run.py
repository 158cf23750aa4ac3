#!/usr/bin/python3 -I
"""Runs one of a bundle's modules: /opt/darkpipe/current/run relay.agent (isolated: nothing but what is the system's).

A program that runs keeps the modules of its bundle, wherever the link leads meanwhile.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    sys.path[:0] = [str(folder), str(folder / "lib")]
    sys.argv.pop(0)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
