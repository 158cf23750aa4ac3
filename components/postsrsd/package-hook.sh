# A key that every copy of the image would share: the device makes its own.
rm -f /etc/postsrsd.secret

# Debian's service, which our own postsrsd.service replaces, and its settings.
rm -f /etc/systemd/system/*.wants/postsrsd.service /etc/init.d/postsrsd /etc/rc?.d/*postsrsd /etc/default/postsrsd

# Executable, and not readable: into a process whose program its user cannot read, the kernel lets nobody look but
# root (PR_SET_DUMPABLE(2const)). Otherwise root of another cage might become this user, and find by /proc/PID/root
# what is for this service alone.
chmod 0711 "$(readlink -f /usr/sbin/postsrsd)"
