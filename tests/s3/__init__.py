"""An S3 server on loopback, and faults on the way to it."""
