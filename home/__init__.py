"""What runs on the home device once it is set up; the device's `darkpipe`."""
