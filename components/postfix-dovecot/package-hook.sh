# The configuration is rendered on the device: what the packages made up for this build host goes.
meta=/usr/share/postfix/meta

# Postfix's list of its own files and of its map types is no configuration; main.cf says where it lies (meta_directory).
mkdir -p "$meta"
for name in dynamicmaps.cf dynamicmaps.cf.d main.cf.proto master.cf.proto postfix-files postfix-files.d; do
	[ ! -e "/etc/postfix/$name" ] || mv "/etc/postfix/$name" "$meta/"
done
rm -rf /etc/postfix /etc/dovecot /etc/aliases /etc/aliases.db /etc/mailname
ln -s /data/darkpipe/config/current/postfix /etc/postfix
ln -s /data/darkpipe/config/current/dovecot /etc/dovecot

# A key that every copy of the image would share.
rm -f /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
for link in /etc/ssl/certs/*.0; do
	[ -e "$link" ] || rm -f "$link"
done

# Mail is in /data/queue; what the package put here would only mislead.
rm -rf /var/spool/postfix
mkdir /var/spool/postfix

# Debian's units that our own postfix.service and dovecot.service replace.
rm -f /etc/systemd/system/*.wants/postfix*.path /etc/systemd/system/*.wants/postfix*.service \
	/etc/systemd/system/*.wants/dovecot.service /etc/systemd/system/*.wants/dovecot.socket
for unit in postfix-resolvconf.path postfix-resolvconf.service dovecot.socket; do
	ln -sf /dev/null "/etc/systemd/system/$unit"
done
