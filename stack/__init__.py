"""From `Site` to running services: the Stack, its configuration, and how that is put in place."""
