# files/ has our own configuration; our valkey.service replaces Debian's unit, whose alias has that name.
rm -f /etc/valkey/valkey.conf /etc/systemd/system/valkey.service /etc/systemd/system/*.wants/valkey-server.service
ln -sf /dev/null /etc/systemd/system/valkey-server.service
