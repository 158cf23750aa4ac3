# Debian's settings are no configuration of ours: they stay as they are, at another place (CONFDIR in rspamd.service).
# /etc/rspamd is rendered on the device and holds only what differs.
mv /etc/rspamd /usr/share/rspamd/debian
ln -s /data/darkpipe/config/current/rspamd /etc/rspamd
rm -f /etc/systemd/system/*.wants/rspamd.service
