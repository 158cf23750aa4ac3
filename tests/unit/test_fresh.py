"""What `./dev test fresh` says about the images that its systems have built."""

from __future__ import annotations

from pathlib import Path

from tests.fresh.command import built_images


def test_images_of_all_systems_are_compared(tmp_path: Path) -> None:
    for system, image in (("bookworm-root", "a"), ("bookworm-user", "a"), ("trixie-root", "a")):
        (tmp_path / f"{system}.build.out").write_text(f"said before\nout/darkpipe-{image}\n")
    (tmp_path / "trixie-user.build.out").write_text("")  # its build has failed, which is told elsewhere
    assert built_images(tmp_path) == ["darkpipe-a"]
    (tmp_path / "trixie-user.build.out").write_text("out/darkpipe-b\n")
    assert built_images(tmp_path) == ["darkpipe-a", "darkpipe-b"]
