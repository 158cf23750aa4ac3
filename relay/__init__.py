"""What runs on the relay, on Debian 12's Python 3.11 and with its standard library."""
