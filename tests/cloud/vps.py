"""A cloud machine under systemd-nspawn: a real cloud-init turns it into a relay, in a network that a test has made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.cloud.seed import Seed
from tests.cloud.status import CloudInit
from tests.network.net import Namespace
from tests.nspawn import Container

_BOOT_TIMEOUT = 240.0
"""Seconds; what cloud-init does belongs to the start of a machine."""

_SEED = "var/lib/cloud/seed/nocloud"
_TUN = "/dev/net/tun"
_ENTER = 'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4" && shift 4 && exec "$@"'


class Vps(Container):
    """One cloud machine with a disk of its own, off at first.

    Args:
        root: the unpacked root file system; it is not changed.
        scratch: a new folder for its disk and console, on a file system that overlayfs works on.
        network: the namespace whose interfaces the machine has; they are there before it is switched on.
        seed: the provider's data.
    """

    def __init__(self, root: Path, scratch: Path, network: Namespace, seed: Seed) -> None:
        super().__init__(scratch, _BOOT_TIMEOUT)
        self._root = root
        self.network = network
        for name in ("changes", "work", "root"):
            (scratch / name).mkdir(parents=True)
        # There is no way to Debian's archive here, and what would be installed is there already.
        (scratch / "changes/etc/apt").mkdir(parents=True)
        (scratch / "changes/etc/apt/sources.list").touch()
        self.reseed(seed)

    def reseed(self, seed: Seed) -> None:
        """Have the provider hand out other data; the machine is off."""
        assert self._process is None, "the machine is on"
        folder = self._scratch / "changes"
        for part in Path(_SEED).parts:
            folder /= part
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        for name, text in seed.files().items():
            (folder / name).write_text(text, encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        """Put a file on its disk, below a folder that its root has; the machine is off."""
        assert self._process is None, "the machine is on"
        target = self._scratch / "changes" / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")

    @property
    def files(self) -> Path:
        """The root file system of the running machine, seen from outside."""
        return Path(f"/proc/{self._leader}/root")

    @property
    def written(self) -> Path:
        """All that it has written to its disk, and nothing of what its root had before."""
        return self._scratch / "changes"

    def _prefix(self) -> Sequence[str]:
        # In a mount namespace of its own, so that nothing is left to unmount, however it ends.
        names = (self._root, *(self._scratch / name for name in ("changes", "work", "root")))
        return ["unshare", "--mount", "sh", "-euc", _ENTER, "sh", *map(str, names)]

    def _options(self) -> Sequence[str]:
        self._clear_network()
        return [
            f"--directory={self._scratch / 'root'}",
            f"--network-namespace-path=/proc/{self.network.pid}/ns/net",
            # It is its own network, and its own tunnels.
            "--capability=CAP_NET_ADMIN",
            f"--bind={_TUN}",
            # A systemd outside would let it use no devices but its own.
            *([f"--property=DeviceAllow={_TUN} rw"] if self._cgroup is None else []),
        ]

    def _clear_network(self) -> None:
        """Forget what a kernel forgets when it is switched off and a namespace does not; the cables stay plugged in."""
        for link in json.loads(self.network.run("ip", "-json", "-details", "link", "show")):
            match link.get("linkinfo", {}).get("info_kind"):
                case "veth":
                    self.network.run("ip", "address", "flush", "dev", link["ifname"])
                    self.network.run("ip", "link", "set", link["ifname"], "down")
                case str():
                    self.network.run("ip", "link", "delete", link["ifname"])
        if (self._root / "usr/sbin/nft").exists():
            self.network.run("chroot", str(self._root), "nft", "flush", "ruleset")
        self.network.run("sysctl", "--quiet", "--write", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")

    def _environment(self) -> dict[str, str]:
        # Its sysctls of the network are those of the namespace (systemd's docs/ENVIRONMENT.md).
        return {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}

    def cloud_init(self) -> CloudInit:
        """Wait until cloud-init has done all that it will do, and give what it says about that."""
        # Its exit status says the same again (cloud-init status --help).
        return CloudInit.parse(self.run("cloud-init", "status", "--wait", "--format=json", check=False).lstrip("."))

    def log(self) -> str:
        """What cloud-init and its commands have said."""
        return self.run("sh", "-c", "cat /var/log/cloud-init.log /var/log/cloud-init-output.log")
