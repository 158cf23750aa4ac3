"""The larger commands of the computer's `darkpipe`, one module each; what they do lies in the modules above."""
