"""What the Raspberry Pi's firmware would read of our boot partitions, and that a missing file is found."""

from __future__ import annotations

import pytest

from builder.firmware import FirmwareError, Model, boot_partition, check_slot, needed_files, read_slot
from builder.raspberry_pi import autoboot, config

KERNEL = bytes(56) + b"ARMd" + bytes(100)


def slot() -> dict[str, bytes]:
    names = {name for model in Model for name in needed_files(config(), model)}
    return {**dict.fromkeys(names, b"x"), "config.txt": config().encode(), "vmlinuz": KERNEL, "cmdline.txt": b"quiet\n"}


def test_the_usual_start_leads_to_the_slot_in_use_and_a_trial_to_the_other() -> None:
    text = autoboot(2, 3)
    assert (boot_partition(text), boot_partition(text, tryboot=True)) == (2, 3)
    swapped = autoboot(3, 2)
    assert (boot_partition(swapped), boot_partition(swapped, tryboot=True)) == (3, 2)


@pytest.mark.parametrize(
    ("text", "tryboot"),
    [
        ("", False),
        ("[all]\nboot_partition=two\n", False),
        ("[tryboot]\nboot_partition=3\n", False),
        ("boot_partition=2\n#" + "x" * 512, False),
        ("boot_partition=2\n[tryboot]\nboot_partition=3\n", True),
    ],
)
def test_an_autoboot_that_leads_nowhere_is_found(text: str, tryboot: bool) -> None:
    with pytest.raises(FirmwareError):
        boot_partition(text, tryboot=tryboot)


def test_both_models_start_from_a_whole_slot() -> None:
    for model in Model:
        check_slot(slot(), model)


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model in Model for name in sorted(set(needed_files(config(), model)))]
)
def test_each_missing_or_empty_file_is_found(model: Model, name: str) -> None:
    whole = slot()
    with pytest.raises(FirmwareError):
        check_slot({key: value for key, value in whole.items() if key != name}, model)
    with pytest.raises(FirmwareError):
        check_slot({**whole, name: b""}, model)


def test_the_pi_5_needs_nothing_of_the_pi_4() -> None:
    names = needed_files(config(), Model.PI5)
    assert not [name for name in names if name.startswith(("start", "fixup", "bcm2711"))]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("arm_64bit=1", "arm_64bit=0"),
        ("upstream_kernel=1", ""),
        ("followkernel", "0x00800000"),
        ("initramfs initrd", "initramfs=initrd"),
        ("arm_64bit=1", "arm_64bit=1\nos_prefix=old/"),
        ("arm_64bit=1", "[none]\narm_64bit=1"),
        ("arm_64bit=1", "arm_64bit=1\ndevice_tree=other.dtb"),
        ("arm_64bit=1", "arm_64bit=1\ninclude other.txt"),
        ("enable_uart=1", "enable_uart=1\n[cm4]\nkernel=other"),
    ],
)
def test_settings_that_start_something_else_are_found(old: str, new: str) -> None:
    text = config()
    assert old in text
    with pytest.raises(FirmwareError):
        read_slot(text.replace(old, new), Model.PI4)


@pytest.mark.parametrize("kernel", [b"MZ" + bytes(2) + b"zimg" + bytes(100), b"", bytes(10)])
def test_a_kernel_that_the_firmware_cannot_unpack_is_found(kernel: bytes) -> None:
    with pytest.raises(FirmwareError):
        check_slot({**slot(), "vmlinuz": kernel}, Model.PI5)


def test_a_command_line_of_two_lines_is_found() -> None:
    with pytest.raises(FirmwareError, match="2 lines"):
        check_slot({**slot(), "cmdline.txt": b"quiet\nroot=/dev/sda\n"}, Model.PI4)
