"""Other ways to what DarkPipe builds, to be measured beside it."""
