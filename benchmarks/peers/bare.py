"""mmdebstrap alone: the packages of the x64 image as a tar, and nothing made of them."""

from __future__ import annotations

from builder.archive import SUITE
from builder.build import SOURCE
from builder.packages import package_names
from builder.profile import load_profile
from builder.workshop import Workshop
from stack.component import load_components


def x64_packages() -> list[str]:
    """List the packages that the x64 image asks for."""
    return package_names(load_profile(SOURCE / "profiles/x64"), load_components(SOURCE / "components"))


def bare_mmdebstrap(shop: Workshop) -> None:
    """Install them, without the files that we leave out."""
    with shop.cache.workspace() as work:
        scratch = work / "scratch"
        scratch.mkdir()
        options = ["--variant=minbase", "--mode=root", f"--include={','.join(x64_packages())}", "--quiet"]
        target = shop.tools.inside(work / "root.tar")
        command = ["mmdebstrap", *options, *shop.archive.path_exclusions, SUITE, target, *shop.archive.mirrors]
        shop.tools.run(command, scratch=scratch)
