#!/bin/sh
# Enters a tools tree: sh sandbox.sh TREE CACHE MEMORY COMMAND…   (run by unshare(1), see sandbox.py)
#   TREE    root file system that holds the tools
#   CACHE   folder shown as /cache, the only one that can be written and stays
#   MEMORY  size of the tmpfs at /tmp, or 0: /tmp is then the folder $DARKPIPE_SCRATCH
# $DARKPIPE_OUTSIDE, when set, is one more folder that can be written, shown as /outside.
set -eu
tree=$1 cache=$2 memory=$3
shift 3
# Needed before the tools as well: an ordinary user of Debian has no sbin on PATH, where chroot is.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount --bind "$tree" "$tree"
cd "$tree"
mount --bind "$cache" cache
[ -z "${DARKPIPE_OUTSIDE:-}" ] || mount --bind "$DARKPIPE_OUTSIDE" outside
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs run
if [ "$memory" != 0 ]; then
	mount -t tmpfs -o "mode=1777,size=$memory" tmpfs tmp
else
	mount --bind "$DARKPIPE_SCRATCH" tmp
fi
for file in /etc/resolv.conf /etc/hosts; do
	[ ! -e "$file" ] || mount --bind "$file" ".$file"
done
# As switch_root(8) does it, since container engines' filters of system calls refuse pivot_root(2). After a chroot alone
# the kernel would forbid user namespaces to mmdebstrap's children; after the move it sees the namespace's own root.
# It is noted nowhere (--no-mtab): an ordinary user may not write to /run/mount.
mount --no-mtab --move . /
HOME=/root TMPDIR=/tmp
LC_ALL=C.UTF-8 TZ=UTC
export PATH HOME TMPDIR LC_ALL TZ
umask 022
exec chroot . "$@"
