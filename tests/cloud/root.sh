#!/bin/sh
# Turns installed packages into a cloud machine that was never started: sh root.sh ROOT RESULT   (run by mmdebstrap)
#   ROOT    the root file system
#   RESULT  takes kernel and initramfs, if there are any
set -eu
root=$1 result=$2

# As in Debian's images: the archive's sources are the image's own, and /etc/hosts follows the name in the metadata.
cat >"$root/etc/cloud/cloud.cfg.d/01_debian_cloud.cfg" <<-'EOF'
	apt:
	  preserve_sources_list: true
	manage_etc_hosts: true
EOF
# The locale that cloud-init 22 asks for is one that the image can generate.
echo 'en_US.UTF-8 UTF-8' >>"$root/etc/locale.gen"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
chroot "$root" systemctl enable --quiet systemd-networkd.service systemd-resolved.service
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
# Made at the first start, each machine its own (machine-id(5), ssh-keygen(1)).
: >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root/var/lib/dbus/machine-id"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt/*

for kernel in "$root"/boot/vmlinuz-*; do
	[ -e "$kernel" ] || break
	# Installed without a name to boot from, since there is no boot loader.
	chroot "$root" update-initramfs -c -k "${kernel##*/vmlinuz-}"
	cp "$kernel" "$result/vmlinuz"
	cp "$root/boot/initrd.img-${kernel##*/vmlinuz-}" "$result/initrd"
	echo 'LABEL=cloudimg-rootfs / ext4 rw,discard,errors=remount-ro 0 1' >"$root/etc/fstab"
done
