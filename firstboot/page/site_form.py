"""What the form of a device without a site says: the choices, each with its consequences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.first_site import Answer, Complaint
from model.site import DataDisk, OfflinePolicy, Transport, UnlockPolicy

NOTHING_KEPT = "Nothing is kept yet: look at what is marked below."


@dataclass(frozen=True)
class Choice:
    """One of several.

    Args:
        value: as the model writes it.
        title: its name for people.
        text: what follows from it.
    """

    value: str
    title: str
    text: str


UNLOCK = (
    Choice(
        UnlockPolicy.PASSPHRASE,
        "A passphrase that somebody types",
        "The disk is encrypted: whoever takes it reads nothing. After each start, also after a power cut, somebody "
        "types it: on this page, on the device or over SSH. Until then the device takes no mail.",
    ),
    Choice(
        UnlockPolicy.USB_KEY,
        "A key on a USB stick, or the passphrase",
        "The disk is encrypted. With the stick plugged in the device starts by itself; without it somebody types the "
        "passphrase. Whoever takes device and stick together reads your mail. Plug one in now that is formatted as "
        "FAT32; what is on it stays.",
    ),
    Choice(
        UnlockPolicy.TPM2,
        "This very device, by its TPM, or the passphrase",
        "The disk is encrypted. A chip in the device, the TPM, has a key: the device starts by itself as long as "
        "nobody has changed how it starts; else, and after some updates, somebody types the passphrase. A thief has no "
        "use for the disk alone; whoever takes the whole device has one that starts.",
    ),
    Choice(
        UnlockPolicy.RELAY,
        "The relay's help, or the passphrase",
        "The disk is encrypted. Once device and relay have paired, the device starts by itself as long as the relay "
        "answers. Whoever takes it has one that starts anywhere, until you switch the relay off.",
    ),
    Choice(
        UnlockPolicy.NONE,
        "Nothing: the disk is not encrypted",
        "The device starts by itself, and whoever takes it or its disk reads all mail. It cannot be encrypted later.",
    ),
)
"""All policies, in the order in which they are offered; a device offers those that it has."""

_CHOICES: Mapping[str, Sequence[Choice]] = {
    Answer.UNLOCK: UNLOCK,
    Answer.OFFLINE: (
        Choice(
            OfflinePolicy.QUEUE,
            "It takes mail and keeps it",
            "encrypted to a key that only your device has, which fetches it later.",
        ),
        Choice(
            OfflinePolicy.TEMPFAIL,
            "It asks senders to try again",
            "and stores nothing. Most servers try for some days; a few give up earlier.",
        ),
        Choice(OfflinePolicy.REJECT, "It refuses mail", "and the sender is told at once."),
    ),
    Answer.TRANSPORT: (
        Choice(Transport.WIREGUARD, "WireGuard", "over UDP: the usual way."),
        Choice(Transport.MTLS, "OpenVPN", "over TCP, for networks that block UDP: slower."),
    ),
    Answer.DATA: (
        Choice(DataDisk.SYSTEM, "The disk or card that the device starts from", ""),
        Choice(
            DataDisk.USB,
            "A USB disk",
            "The device takes over the only empty one that is plugged in, and waits for it. It touches none with "
            "anything on it.",
        ),
    ),
}

_TO_BEGIN_WITH: Mapping[str, str] = {
    Answer.OFFLINE: OfflinePolicy.QUEUE,
    Answer.TRANSPORT: Transport.WIREGUARD,
    Answer.DATA: DataDisk.SYSTEM,
}
"""As in a site that says nothing of it. How the disk is unlocked is everybody's own decision."""


@dataclass(frozen=True)
class SiteForm:
    """The form as one browser sees it.

    Args:
        policies: ways to unlock the disk that the device has.
        typed: what was typed before, by name of the field.
        complaints: about that.
        blank: whether nothing is chosen to begin with, since a file may say it.
    """

    policies: Sequence[UnlockPolicy]
    typed: Mapping[str, str]
    complaints: Sequence[Complaint] = ()
    blank: bool = False

    def complaint(self, name: str) -> str:
        """Give what is wrong with a field; empty when nothing is."""
        return " ".join(_plain(one.text) for one in self.complaints if one.answer == name)

    @property
    def at_large(self) -> Sequence[str]:
        """What is wrong with all answers together."""
        return [_plain(one.text) for one in self.complaints if one.answer is None]

    def value(self, name: str) -> str:
        """Give what was typed, or what is there to begin with."""
        return self.typed.get(name, "") or ("" if self.blank else _TO_BEGIN_WITH.get(name, ""))

    def choices(self, name: str) -> Sequence[Choice]:
        """Give what can be chosen."""
        return [choice for choice in _CHOICES[name] if name != Answer.UNLOCK or choice.value in self.policies]


def _plain(text: str) -> str:
    """Put what is quoted for a terminal into quotation marks."""
    return re.sub("`([^`]*)`", r"“\1”", text)
