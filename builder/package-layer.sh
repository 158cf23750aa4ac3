#!/bin/sh
# Steps of the package layer that run while mmdebstrap still has the root file system unpacked.
#   package-layer.sh accounts ROOT INPUTS           before any package beyond the essential ones
#   package-layer.sh finish   ROOT INPUTS RESULTS   after all packages
set -eu

accounts() {
	for file in passwd group shadow gshadow; do
		[ -e "$root/etc/$file" ] || (umask 077 && : >"$root/etc/$file")
		cat "$inputs/$file" >>"$root/etc/$file"
	done
	chmod 0640 "$root/etc/shadow" "$root/etc/gshadow"
	chroot "$root" chown root:shadow /etc/shadow /etc/gshadow
	mkdir -p "$root/etc/initramfs-tools"
	cp -R "$inputs/initramfs/." "$root/etc/initramfs-tools/"
	# The checkout's modes follow its owner's umask; the image's must not.
	chmod -R u=rwX,go=rX "$root/etc/initramfs-tools"
}

finish() {
	version=$(ls "$root/usr/lib/modules")
	chroot "$root" mkinitramfs -o /boot/initrd.img "$version"
	cp "$root/boot/initrd.img" "$results/initrd"
	sh -eu "$inputs/boot-files.sh" "$root" "$version" "$results"
	printf '%s' "$version" >"$results/kernel-version"
	chmod 0644 "$results/initrd" "$results/vmlinuz"
	# What the archive says about each package that is installed: builder/packages.py takes the digests from it.
	chroot "$root" dpkg-query --show --showformat "\${binary:Package}=\${Version}\n" |
		xargs chroot "$root" apt-cache show >"$inputs/index"
	cp "$root/var/lib/dpkg/status" "$inputs/status"
	# Nothing is installed on the device; and where the packages came from must not change the image.
	rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root/var/lib/apt/extended_states"
	# The kernel starts from the boot partition.
	rm -rf "${root:?}/boot" "$root/vmlinuz" "$root/vmlinuz.old" "$root/initrd.img" "$root/initrd.img.old"
	mkdir "$root/boot"
	# Identities are made on the device, never in the image.
	: >"$root/etc/machine-id"
	rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed"
	rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
	rm -rf "$root"/var/log/* "$root/etc/initramfs-tools" "$root"/var/lib/apt/lists "$root/var/cache/apt"
	# Python left it while it installed packages, with bytes that depend on what else was in its memory.
	rm -rf "$root/usr/share/python3/debpython/__pycache__"
	for hook in "$inputs"/hook-*.sh; do
		[ ! -e "$hook" ] || chroot "$root" sh -eu <"$hook"
	done
}

step=$1 root=$2 inputs=$3 results=${4:-}
"$step"
