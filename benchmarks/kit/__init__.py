"""What the benchmarks share: the builders that are compared, and how a machine and its numbers are shown."""
