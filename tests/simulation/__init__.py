"""A simulation of mail on its way, with faults at every call, that counts what is lost and what comes twice."""
