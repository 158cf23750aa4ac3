"""What runs on the home device until it is set up: partitions, file systems, the seed."""
