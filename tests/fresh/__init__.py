"""The README's commands in fresh Debian systems, as root and as an ordinary user with sudo: `./dev test fresh`."""
