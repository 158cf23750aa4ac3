#!/bin/sh
# Runs programs of another architecture while packages are installed. Called in a tools tree; what it does is told in
# foreign.py and foreign-handler.c.
#   sh foreign.sh run HANDLER COMMAND…          a command that starts programs for AArch64 by our handler
#   sh foreign.sh bind ROOT PROGRAMS NATIVE     (hook of mmdebstrap) shows the handler's programs in a root
#   sh foreign.sh hide ROOT                     shows no libraries among the root's own any more
#   sh foreign.sh unbind ROOT                   takes everything away again
set -eu

libraries=usr/lib/x86_64-linux-gnu

# The ELF header of a 64-bit little-endian program (or shared object) for AArch64, elf(5), and which bits of it count.
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'

# A user namespace may have binfmt_misc handlers that nobody else sees (Linux 6.7): this computer's settings stay as they
# are, and no right is needed beyond those that every build has.
run() {
	mkfifo /run/gate
	unshare --user -- sh "$script" mapped "$@" &
	child=$!
	own=$(readlink /proc/self/ns/user)
	while [ "$(readlink "/proc/$child/ns/user")" = "$own" ]; do sleep 0.01; done
	# newuidmap(1), which unshare(1) would call, refuses root ids that are not listed in /etc/subuid.
	# Range by range: an ordinary user's ids come in two, and no range may reach over both (user_namespaces(7)).
	for map in uid_map gid_map; do
		awk '{ print $1, $1, $3 }' "/proc/self/$map" >"/proc/$child/$map"
	done
	echo >/run/gate
	wait "$child"
}

mapped() {
	read -r _ </run/gate
	# Only from here on are we root: an execve(2) before the map was there has cost all capabilities.
	exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private -- sh "$script" registered "$@"
}

registered() {
	handler=$1
	shift
	mkdir -p /run/binfmt
	mount -t binfmt_misc binfmt_misc /run/binfmt
	printf '%s' ":darkpipe-aarch64:M::$magic:$mask:$handler:PF" >/run/binfmt/register
	exec "$@"
}

bind() {
	root=$1 programs=$2 native=$3
	for package in "$native"/*; do
		[ -d "$package/root" ] || continue
		name=${package##*/}
		# The index of the archive that is being installed from, not what the tools came from.
		offered=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache show --no-all-versions "$name" | sed -n 's/^Version: //p')
		if [ "$offered" = "$(cat "$package/version")" ]; then
			cp -R "$package/root/." "$programs/"
		else
			echo "$name is emulated: this computer's is $(cat "$package/version"), and $offered is being installed"
		fi
	done
	# Read-only: when mmdebstrap fails it removes the root with all that it finds there.
	mkdir "$root/.native"
	[ ! -e "$programs/usr" ] || mkdir -p "$programs/$libraries"
	mount --bind -o ro "$programs" "$root/.native"
	[ -e "$programs/usr" ] || return 0
	mount --bind -o ro "/$libraries" "$root/.native/$libraries"
	# perl's modules, too, which it looks for here.
	mkdir -p "$root/$libraries"
	mount --bind -o ro "/$libraries" "$root/$libraries"
}

# Whoever looks for libraries of all architectures, as udev's hook for the initramfs does, must find only the root's own.
hide() {
	[ -d "$1/$libraries" ] || return 0
	umount "$1/$libraries"
	rmdir "$1/$libraries"
}

unbind() {
	hide "$1"
	[ ! -d "$1/.native/$libraries" ] || umount "$1/.native/$libraries"
	umount "$1/.native"
	rmdir "$1/.native"
}

script=$0 step=$1
shift
"$step" "$@"
