# Units that packages enable and that cannot work, or make no sense, on a read-only root.
units=/etc/systemd/system
for unit in \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service; do
	rm -f "$units"/*.wants/"$unit"
	ln -sf /dev/null "$units/$unit"
done

# What only a system that changes itself has a use for.
rm -rf /etc/fstab /etc/.pwd.lock /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/update-motd.d /etc/network \
	/var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/backups/*
: >/etc/motd

# files/ has a link to the data disk in its place (darkpipe-journal.service).
rm -rf /var/log/journal
