"""The device's page, in the home's network: so far it makes and unlocks the encrypted disk."""
