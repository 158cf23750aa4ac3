"""Fuzzing: octets that nobody would think of, led by which lines of the code they reach."""
