#!/bin/sh
# Steps of a locked build around apt.
#   locked.sh list  ROOT TARGET          all stanzas of the archive's indices, into a file (hook of mmdebstrap)
#   locked.sh fetch ROOT REQUESTS DEBS   the packages that a file names, into a folder (hook of mmdebstrap)
#   locked.sh index DEBS SUITE           a flat archive (sources.list(5)) from a folder of packages
set -eu

list() {
	# Unlike apt-cache, the indices themselves have every version that the archive offers.
	APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get indextargets --format "\$(FILENAME)" "Created-By: Packages" |
		while read -r file; do
			APT_CONFIG=$MMDEBSTRAP_APT_CONFIG /usr/lib/apt/apt-helper cat-file "$file"
			echo
		done >"$2"
}

fetch() {
	cd "$3"
	# The folder is ours alone; apt's own user could not write it.
	APT_CONFIG=$MMDEBSTRAP_APT_CONFIG xargs apt-get download --quiet -o APT::Sandbox::User=root <"$2"
}

index() {
	cd "$1"
	for file in *.deb; do
		dpkg-deb --field "$file"
		sum=$(sha256sum "$file")
		printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat --format %s "$file")" "${sum%% *}"
	done >Packages
	sum=$(sha256sum Packages)
	# mmdebstrap picks the essential packages by the archive's code name.
	cat >Release <<-END
		Suite: $2
		Codename: $2
		Date: $(LC_ALL=C date --utc '+%a, %d %b %Y %T UTC')
		SHA256:
		 ${sum%% *} $(stat --format %s Packages) Packages
	END
}

step=$1
shift
"$step" "$@"
