"""The device's page while its disk is locked: it makes and unlocks the encrypted disk."""
