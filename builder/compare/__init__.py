"""Comparing two images or results to the byte, and naming what differs: `./darkpipe diff`."""
