# unbound resolves names: files/ of the component `base` has a file of its own in place of this link.
rm -f /etc/resolv.conf
