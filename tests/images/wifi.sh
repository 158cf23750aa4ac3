#!/bin/sh
# Wi-Fi without radio waves: two radios that the kernel makes up (mac80211_hwsim). One becomes an access point; the device
# joins it with the other, by its own unit, if its settings name that network. Run as root on a started device:
#
#   wifi.sh SSID [KEY]
#
# SSID is in hexadecimal, KEY is the key itself in 64 hexadecimal digits (none: an open network). Settings that fit:
#
#   {"wifi": [{"ssid": "SSID", "key": "KEY"}], "country": "DE"}
#
# Prints `joined` and ends with 0; says what it saw instead, and ends with 1, after two minutes.
set -eu

ssid=${1:?the SSID in hexadecimal}
key=${2:-}
work=$(mktemp -d /run/wifi-test.XXXXXX)
point='' station='' access_point=''

finish() {
	[ -z "$access_point" ] || kill "$access_point" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT

fail() {
	echo "wifi.sh: $*" >&2
	ip address >&2
	[ -z "$station" ] || journalctl --no-pager --lines=40 --unit="darkpipe-wifi@$station.service" >&2
	[ ! -s "$work/log" ] || tail -n 40 "$work/log" >&2
	exit 1
}

# wait_for SECONDS COMMAND…: until the command succeeds.
wait_for() {
	left=$(($1 * 5))
	shift
	until "$@"; do
		[ "$left" -gt 0 ] || return 1
		left=$((left - 1))
		sleep 0.2
	done
}

radios() {
	for folder in /sys/class/net/*/phy80211; do
		[ ! -e "$folder" ] || basename "$(dirname "$folder")"
	done
}

two_radios() {
	[ "$(radios | wc -l)" -eq 2 ]
}

is_up() {
	[ "$(cat "/sys/class/net/$1/operstate")" = up ]
}

modprobe mac80211_hwsim radios=2 || fail 'this kernel makes up no radios'
wait_for 20 two_radios || fail "expected two radios, found: $(radios | tr '\n' ' ')"
udevadm settle
station=$(radios | head -n 1)
point=$(radios | tail -n 1)

# Our unit was started for both.
systemctl stop "darkpipe-wifi@$point.service"
# No rules of a country for the access point: it is the device's settings that name one.
{
	printf 'network={\n\tmode=2\n\tssid=%s\n\tfrequency=2412\n' "$ssid"
	if [ -n "$key" ]; then
		printf '\tkey_mgmt=WPA-PSK\n\tproto=RSN\n\tpairwise=CCMP\n\tpsk=%s\n' "$key"
	else
		printf '\tkey_mgmt=NONE\n'
	fi
	printf '}\n'
} >"$work/access-point.conf"
wpa_supplicant -Dnl80211 -i"$point" -c"$work/access-point.conf" >"$work/log" 2>&1 &
access_point=$!
wait_for 20 is_up "$point" || fail "there is no access point on $point"

systemctl is-active --quiet "darkpipe-wifi@$station.service" || fail "darkpipe-wifi@$station.service does not run"
# A link is up when the access point has taken the key (operstates of the kernel's networking documentation).
wait_for 100 is_up "$station" || fail "$station has not joined"
echo joined
