#!/bin/sh
# Makes the disks of a cloud machine: sh disk.sh TAR LAYER SEED DISK SEED_DISK   (run in the tools tree)
#   TAR        the root file system
#   LAYER      folder with files that are laid over it
#   SEED       folder with the files of a NoCloud seed
#   DISK       takes the disk: GPT with one partition, which the machine makes larger as it does on a provider's disk
#   SEED_DISK  takes the seed
set -eu
tar=$1 layer=$2 seed=$3 disk=$4 seed_disk=$5
root=$(mktemp -d)
tar --extract --file "$tar" --directory "$root" --numeric-owner --same-permissions --exclude='./dev/*'
cp -R "$layer/." "$root/"
truncate --size 6G "$disk"
printf 'label: gpt\nstart=1MiB, size=3GiB, type=linux\n' | sfdisk --quiet "$disk"
mke2fs -q -t ext4 -L cloudimg-rootfs -E offset=1048576,lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$disk" 3G
mkfs.vfat -n CIDATA -C "$seed_disk" 1440 >/dev/null
mcopy -i "$seed_disk" "$seed"/* ::
