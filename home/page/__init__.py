"""The page of the running device, for its administrator."""
