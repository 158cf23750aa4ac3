"""The wireless network of the device's settings, in the words of wpa_supplicant.conf(5)."""

from __future__ import annotations

from collections.abc import Sequence

from model.settings import WifiNetwork

_HEAD = """\
# Made by darkpipe-settings.service at every start, from /state/settings.json.
# A device that only ever joins networks: no Wi-Fi Direct.
p2p_disabled=1
"""


def supplicant_configuration(networks: Sequence[WifiNetwork], country: str | None) -> str:
    """Write wpa_supplicant's configuration; nothing in it is quoted, so that no name of a network can break out.

    Args:
        networks: at least one.
        country: ISO 3166-1 alpha-2; None keeps the radio to what is allowed everywhere.
    """
    head = _HEAD if country is None else f"{_HEAD}country={country}\n"
    return head + "".join(_network(network) for network in networks)


def _network(network: WifiNetwork) -> str:
    lines = [f"ssid={network.ssid}"]  # octets in hexadecimal when there are no quotation marks
    if network.hidden:
        lines.append("scan_ssid=1")  # asks for it by name, since it does not announce itself
    if network.key is None:
        lines.append("key_mgmt=NONE")
    else:
        # RSN is WPA2; WPA's first version and TKIP are broken. Management frames are protected where the access point
        # can (WPA3's transition mode requires only that), and left as they are where it cannot.
        lines += [
            "key_mgmt=WPA-PSK WPA-PSK-SHA256",
            "proto=RSN",
            "pairwise=CCMP",
            "ieee80211w=1",
            f"psk={network.key}",  # without quotation marks: the key itself, not the passphrase that it comes from
        ]
    return "\nnetwork={\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"
