"""What the pages of the device have in common: the guard, the frame around each page, and the server."""
