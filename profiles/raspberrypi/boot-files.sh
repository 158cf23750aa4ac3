# Collects the kernel and what else the boot partitions need:  sh boot-files.sh ROOT KERNEL-VERSION RESULTS
root=$1 version=$2 results=$3
modules=$root/usr/lib/modules/$version

# The firmware takes a bare or a gzipped kernel image, with this mark in it (Documentation/arch/arm64/booting.rst).
[ "$(dd if="$root/boot/vmlinuz-$version" bs=1 skip=56 count=4 status=none)" = ARMd ] || {
	echo "the kernel is in a form that the Raspberry Pi's firmware does not start" >&2
	exit 1
}
cp "$root/boot/vmlinuz-$version" "$results/vmlinuz"
cp "$modules"/dtb/broadcom/bcm2711-*.dtb "$modules"/dtb/broadcom/bcm2712-*.dtb "$results/boot/"
# Boards with the later stepping of the Pi 5's chip have a device tree of their own, whose name kernel.org and Raspberry
# Pi write differently.
for tree in "$results"/boot/bcm2712-d-*.dtb; do
	cp "$tree" "$results/boot/bcm2712d0-${tree##*/bcm2712-d-}"
done
cp "$root/usr/lib/raspi-firmware/start4.elf" "$root/usr/lib/raspi-firmware/fixup4.dat" "$results/boot/"
cp "$root/usr/share/doc/raspi-firmware/copyright" "$results/boot/LICENCE.broadcom"
chmod 0644 "$results"/boot/*

# On the root they would only take space; and its hooks would write to a folder that we do not have.
rm -r "$modules/dtb" "$modules/vmlinuz" "$root/usr/lib/raspi-firmware"
rm "$root"/etc/kernel/*/z50-raspi-firmware "$root"/etc/initramfs/*/z50-raspi-firmware
