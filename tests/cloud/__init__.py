"""A cloud machine as a provider gives it: Debian with cloud-init, as files, in a container and in QEMU."""
