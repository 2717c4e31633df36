"""Debian programs that tests need: `python tests/needs.py --install` installs the missing ones, as root.

A test says so with @pytest.mark.needs("program"). Where a program stays absent, its tests are deselected in one printed
list; with CI=true they fail instead.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys

PACKAGES = {
    "shellcheck": "shellcheck",
    "clang": "clang",
    "x86_64-linux-gnu-gcc": "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    "libFuzzer": "clang libclang-rt-dev",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "qemu-aarch64": "qemu-user",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    "qemu-arm": "qemu-user",
    "avr-gcc": "gcc-avr avr-libc",
    "simavr": "simavr",
    "cmake": "cmake make",
    "llvm-mca": "llvm",
    "chromium": "chromium libegl1 libgl1-mesa-dri",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
}
"""Program → Debian packages, with a space between them."""

LIBRARIES = {"libFuzzer": "/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a"}
"""What is not a program, and where it is."""


def find(program: str) -> str | None:
    """Where a program is, also where only root looks for it."""
    if program in LIBRARIES:
        return next(iter(glob.glob(LIBRARIES[program])), None)
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def missing() -> list[str]:
    """Programs that are absent."""
    return [program for program in PACKAGES if find(program) is None]


def install() -> None:
    """Install the packages of all missing programs, where we may."""
    packages = sorted({package for program in missing() for package in PACKAGES[program].split()})
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run([*command, "--quiet"], check=True, env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    if sys.argv[1:] == ["--install"]:
        install()
    for program in missing():
        print(f"{program} is absent (Debian package {PACKAGES[program]})")
