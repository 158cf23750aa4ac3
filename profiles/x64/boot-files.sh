# Collects the kernel and what else the boot partition needs:  sh boot-files.sh ROOT KERNEL-VERSION RESULTS
root=$1 version=$2 results=$3
cp "$root/boot/vmlinuz-$version" "$results/vmlinuz"
cp -R "$root/usr/lib/systemd/boot/efi/." "$results/boot/"
