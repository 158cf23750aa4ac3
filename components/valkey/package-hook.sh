# files/ has our own configuration; our valkey.service replaces Debian's unit, whose alias has that name.
rm -f /etc/valkey/valkey.conf /etc/systemd/system/valkey.service /etc/systemd/system/*.wants/valkey-server.service
ln -sf /dev/null /etc/systemd/system/valkey-server.service

# Executable, and not readable: into a process whose program its user cannot read, the kernel lets nobody look but
# root (PR_SET_DUMPABLE(2const)). Otherwise root of another cage might become this user, and find by /proc/PID/root
# what is for this service alone.
chmod 0711 "$(readlink -f /usr/bin/valkey-server)"
