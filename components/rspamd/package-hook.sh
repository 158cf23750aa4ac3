# Debian's settings are no configuration of ours: they stay as they are, at another place (CONFDIR in rspamd.service).
# /etc/rspamd is rendered on the device and holds only what differs.
mv /etc/rspamd /usr/share/rspamd/debian
ln -s /data/darkpipe/config/current/rspamd /etc/rspamd
rm -f /etc/systemd/system/*.wants/rspamd.service

# Executable, and not readable: into a process whose program its user cannot read, the kernel lets nobody look but
# root (PR_SET_DUMPABLE(2const)). Otherwise root of another cage might become this user, and find by /proc/PID/root
# what is for this service alone.
chmod 0711 "$(readlink -f /usr/bin/rspamd)"
