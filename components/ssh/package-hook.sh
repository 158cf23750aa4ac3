# files/ has our own configuration, and our ssh.service replaces Debian's.
rm -rf /etc/ssh/sshd_config /etc/ssh/sshd_config.d /etc/ssh/ssh_config.d /etc/default/ssh /etc/init.d/ssh /etc/rc?.d/???ssh \
	/etc/sv /etc/runit /etc/ufw /var/log/runit
rm -rf /etc/systemd/system/sshd.service /etc/systemd/system/sshd.service.wants /etc/systemd/system/sshd@.service.wants \
	/etc/systemd/system/ssh.service.wants /etc/systemd/system/ssh.socket.wants
rm -f /etc/systemd/system/*.wants/ssh.service /etc/systemd/system/*.wants/ssh.socket
for unit in ssh.socket sshd-keygen.service; do
	ln -sf /dev/null "/etc/systemd/system/$unit"
done
