"""Tests, ordered by cost: unit, machine (the root tar under systemd-nspawn), images (QEMU), fresh (by hand)."""
