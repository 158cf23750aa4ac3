#!/bin/sh
# Enters a root file system as if this computer had been started from it: sh enter.sh ROOT USER FOLDER COMMAND…
# Run by unshare(1) with private mount and process namespaces (system.py), which take everything away at the end.
set -eu
root=$1 user=$2 folder=$3
shift 3
users_path=$PATH
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$root" "$root"
cd "$root"
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=0755 tmpfs run
mkdir -m 1777 run/lock
rm -f etc/resolv.conf
cat /etc/resolv.conf >etc/resolv.conf
# The kernel refuses user namespaces to whoever is in a plain chroot (user_namespaces(7)).
pivot_root . mnt
cd /
umount -l /mnt
cd "$folder"
PATH=$users_path
# Not exec: this shell stays as process 1 and reaps what the command leaves behind.
/usr/bin/setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"
