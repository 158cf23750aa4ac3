# shellcheck shell=sh
# Shared by ./darkpipe and ./dev: brings this computer to where our Python code runs, then runs it.
#
# Sourced. POSIX sh and Debian's essential packages are all that it may rely on. It prints on standard error only.
# The caller sets `root`, the checkout; adds what it needs beyond the list below by `need`; and ends with `launch`.
# On a system that is not like Debian images are built in a container (builder/where.py); Python is then all it needs.

# debian_like FILE…: the first of the files that is there (os-release(5)) names Debian or a system made from it.
debian_like() {
	for release; do
		[ ! -r "$release" ] || break
	done
	# shellcheck disable=SC1090  # it is made to be sourced; in a shell of its own, since it sets many names
	(ID='' ID_LIKE='' && { [ ! -r "$release" ] || . "$release"; } && case " $ID $ID_LIKE " in
	*' debian '* | *' ubuntu '*) ;;
	*) exit 1 ;;
	esac)
}

# Prints the first Python on PATH that is new enough; some systems have it beside an older one.
new_python() {
	for name in python3 python3.14 python3.13 python3.12 python3.11; do
		found=$(command -v "$name") && is_new "$found" && readlink -f "$found" && return
	done
	return 1
}

is_new() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

uid=$(id -u)
apt='' here=''
if debian_like /etc/os-release /usr/lib/os-release; then apt=yes; fi
case ${DARKPIPE_CONTAINER:-} in
always) ;;
never) here=yes ;;
*) here=$apt ;;
esac
if [ -n "$apt" ]; then
	# Debian's own Python, not the first one on PATH: its version and its venv module are known.
	python=$(readlink -f /usr/bin/python3)
else
	python=$(new_python) || python=''
fi
needed=''
newline='
'

# need PACKAGE FILE REASON: FILE tells whether the Debian package is installed.
need() {
	needed="$needed$1|$2|$3$newline"
}

if [ -n "$apt" ]; then
	need python3 /usr/bin/python3 'runs DarkPipe'
	need python3-venv '/usr/lib/PYTHON/ensurepip/__init__.py' "keeps DarkPipe's Python libraries apart from the system's"
	need ca-certificates /etc/ssl/certs/ca-certificates.crt 'checks the server that the libraries come from'
fi
if [ -n "$here" ]; then
	need mmdebstrap /usr/bin/mmdebstrap 'makes Debian systems from packages'
	need gpg /usr/bin/gpg "lets mmdebstrap pick the key of Debian's archive"
	need debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg "holds the keys of Debian's archive"
	need mount /usr/bin/mount 'enters the tree with the build tools'
	if [ "$uid" != 0 ]; then
		need uidmap /usr/bin/newuidmap 'lets an ordinary user build without root'
	fi
fi

# launch NAME LOCK MODULE ARGUMENT…: run a Python module of the checkout in the environment that LOCK describes.
launch() {
	program=$1 lock=${root:?}/$2 module=$3
	shift 3
	[ -n "$apt$python" ] || stop 'there is no Python 3.11 or later on PATH' 'install python3, and its venv module'
	find_missing
	find_environment
	if [ -n "$missing$wanted_ids" ] || [ ! -x "$environment/bin/python" ]; then
		prepare "$@"
	fi
	# Isolated (-I): neither the folder that we are called in nor PYTHON* variables change what is imported.
	exec "$environment/bin/python" -I -c 'import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)' "$root" "$module" "$@"
}

# Sets `missing` (lines PACKAGE|REASON) and `wanted_ids` (options of usermod), both empty when nothing is missing.
find_missing() {
	missing='' wanted_ids=''
	while IFS='|' read -r package file reason; do
		# Debian's venv module is a package per Python version: /usr/lib/python3.11/ensurepip.
		[ "$package" != python3-venv ] || file=/usr/lib/${python##*/}/ensurepip/__init__.py
		[ -z "$package" ] || [ -e "$file" ] || missing="$missing$package|$reason$newline"
	done <<-END
		$needed
	END
	if [ "$uid" != 0 ] && [ -n "$here" ]; then
		user=$(id -un)
		has_ids /etc/subuid || wanted_ids=--add-subuids
		has_ids /etc/subgid || wanted_ids="$wanted_ids --add-subgids"
	fi
}

# has_ids FILE: the user owns a block of 65536 subordinate ids, as many as a Debian system uses (subuid(5)).
has_ids() {
	[ -r "$1" ] || return 1
	while IFS=: read -r owner _ count || [ -n "$owner" ]; do
		case $owner in
		"$user" | "$uid") [ "${count:-0}" -lt 65536 ] || return 0 ;;
		esac
	done <"$1"
	return 1
}

# Prints the first id above all blocks in some files that are like /etc/subuid.
free_id() {
	free=100000
	for file; do
		[ -r "$file" ] || continue
		while IFS=: read -r owner first count || [ -n "$owner" ]; do
			case $first$count in
			'' | *[!0-9]*) ;;
			*) [ $((first + count)) -le "$free" ] || free=$((first + count)) ;;
			esac
		done <"$file"
	done
	echo "$free"
}

# Sets `home`, our folder of data, and `environment`, the folder of the Python environment for this lock and Python.
find_environment() {
	case ${XDG_DATA_HOME:-} in
	/*) home=$XDG_DATA_HOME/darkpipe ;; # a relative path must be ignored (XDG Base Directory Specification)
	*)
		[ -n "${HOME:-}" ] || stop 'HOME is not set; DarkPipe keeps its Python libraries below it' \
			'set HOME, or XDG_DATA_HOME, to a folder that you can write'
		home=$HOME/.local/share/darkpipe
		;;
	esac
	digest=$(sha256sum "$lock")
	digest=${digest#\\} # sha256sum marks a file name with a backslash or a line feed in it
	environment=$home/venv-${python##*/}-$(printf %.16s "$digest")
}

# prepare ARGUMENT…: install what is missing; the arguments are the program's, of which only --yes matters here.
prepare() {
	ask=''
	if [ -t 0 ] && [ -t 2 ]; then ask=yes; fi
	for argument; do
		case $argument in
		--) break ;;
		--yes) ask='' ;;
		esac
	done
	check_host
	if ! mkdir -p "$home" 2>/dev/null || [ ! -w "$home" ]; then
		stop "the folder $home cannot be written" 'set XDG_DATA_HOME to a folder that you can write'
	fi
	# Two first calls at once: the second waits, and finds everything done.
	exec 9>"$home/lock"
	flock -n 9 || { say 'waiting for another first call' && flock 9; }
	find_missing
	if [ -n "$missing$wanted_ids" ] || [ ! -x "$environment/bin/python" ]; then
		explain
		agree
		[ -z "$missing" ] || install_packages
		[ -z "$wanted_ids" ] || add_ids
		[ -z "$apt" ] || python=$(readlink -f /usr/bin/python3)
		find_environment
		[ -x "$environment/bin/python" ] || make_environment
	fi
	exec 9>&-
}

check_host() {
	architecture=$(dpkg --print-architecture 2>/dev/null || uname -m)
	case $architecture in
	amd64 | arm64 | x86_64 | aarch64) ;;
	*) stop "this computer is $architecture; DarkPipe builds on amd64 and arm64 only" 'use another computer' ;;
	esac
	if [ -n "$missing" ] && ! command -v apt-get >/dev/null; then
		explain
		stop 'there is no apt-get here to install this' 'this works on Debian 12 and 13 and on Ubuntu 24.04'
	fi
}

explain() {
	say 'this is needed before the first run:'
	while IFS='|' read -r package reason; do
		[ -z "$package" ] || printf '  %-24s %s\n' "$package" "$reason"
	done >&2 <<-END
		$missing
	END
	[ -z "$wanted_ids" ] || printf '  %-24s %s\n' 'subordinate ids' \
		"65536 in /etc/subuid and /etc/subgid: the owners of files in the systems that $user builds" >&2
	[ -x "$environment/bin/python" ] || printf '  %-24s %s\n' 'Python libraries' \
		"those of ${lock##*/}, in ${environment%/*}" >&2
}

agree() {
	[ -n "$ask" ] || return 0
	printf 'Install it now? [y/N] ' >&2
	read -r answer || answer=''
	case $answer in
	[yY] | [yY][eE][sS]) ;;
	*) stop 'nothing was installed' 'call it again with --yes, or install this by hand' ;;
	esac
}

install_packages() {
	packages=$(echo "$missing" | sed 's/|.*//')
	# shellcheck disable=SC2086  # one word for each package
	set -- apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 $packages
	need_root "$*"
	# A third party's broken archive must not stop us: whether ours can be reached shows in the next step.
	as_root apt-get update || say 'apt-get update failed; trying with the package lists that are here'
	as_root "$@" || stop "apt-get failed (its messages are above)" \
		"is the network up, and is Debian's archive in /etc/apt/sources.list? Then try: $*"
}

add_ids() {
	first=$(free_id /etc/subuid /etc/subgid)
	set -- usermod
	for option in $wanted_ids; do
		set -- "$@" "$option" "$first-$((first + 65535))"
	done
	need_root "$* $user"
	# usermod wants the files to be there.
	{ as_root touch /etc/subuid /etc/subgid && as_root "$@" "$user"; } || stop "usermod failed (its message is above)" \
		"as root, add the line $user:$first:65536 to /etc/subuid and to /etc/subgid"
}

# need_root COMMAND: stop when the user cannot become root; the hint is then the command for whoever can.
need_root() {
	[ "$uid" = 0 ] || command -v sudo >/dev/null || stop 'this needs root, and there is no sudo here' "as root: $1"
	as_root true || stop 'this needs root, and sudo has refused (its message is above)' "as root: $1"
}

# Descriptor 9 is closed: a daemon that a package starts would hold our lock for ever.
as_root() {
	if [ "$uid" = 0 ]; then
		set -- env DEBIAN_FRONTEND=noninteractive "$@"
	elif [ -n "$ask" ] || [ -t 2 ]; then
		set -- sudo env DEBIAN_FRONTEND=noninteractive "$@"
	else
		set -- sudo -n env DEBIAN_FRONTEND=noninteractive "$@" # nobody is there to type a password
	fi
	"$@" </dev/null >&2 9>&-
}

# The environment gets its name when it is complete.
make_environment() {
	is_new "$python" ||
		stop "$("$python" --version) is too old" 'DarkPipe needs Python 3.11 or later: Debian 12, Ubuntu 24.04'
	"$python" -c 'import ensurepip, venv' 2>/dev/null ||
		stop "$python lacks the modules venv and ensurepip" 'install the package that has them, often python3-venv or pip'
	say 'installing the Python libraries'
	made=$environment.new
	trap 'rm -rf "$made"' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	rm -rf "$made"
	{
		"$python" -I -m venv "$made" &&
			"$made/bin/python" -I -m pip --disable-pip-version-check --no-input install --quiet \
				--require-hashes --no-deps --only-binary :all: --requirement "$lock"
	} </dev/null >&2 9>&- || stop 'the Python libraries could not be installed (the messages are above)' \
		'is the network up? pip reads its settings from pip.conf and PIP_… variables'
	# One whose Python has gone since, as with pyenv and its kin: mv would put ours into it.
	rm -rf "$environment"
	mv "$made" "$environment"
	trap - EXIT HUP INT TERM
}

say() {
	echo "$program: $1" >&2
}

# stop MESSAGE HINT
stop() {
	say "$1"
	echo "Hint: $2." >&2
	exit 1
}
