# A key that every copy of the image would share: the device makes its own.
rm -f /etc/postsrsd.secret

# Debian's service, which our own postsrsd.service replaces, and its settings.
rm -f /etc/systemd/system/*.wants/postsrsd.service /etc/init.d/postsrsd /etc/rc?.d/*postsrsd /etc/default/postsrsd
