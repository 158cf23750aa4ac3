"""The slowest tier: the finished image on an emulated PC."""
