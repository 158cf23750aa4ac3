# The configuration is rendered on the device, and our own unbound.service replaces Debian's.
rm -rf /etc/unbound
ln -s /data/darkpipe/config/current/unbound /etc/unbound
rm -rf /etc/systemd/system/unbound.service.wants /etc/systemd/system/*.wants/unbound.service
ln -sf /dev/null /etc/systemd/system/unbound-resolvconf.service
