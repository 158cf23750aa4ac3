"""Power cuts on an emulated PC: what is written to its disk is logged, and replayed up to any point."""
