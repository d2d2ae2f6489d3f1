#!/bin/bash -e
# Debian's base system, kernel and firmware, of Debian's packages alone, where pi-gen would bring Raspberry Pi OS.
packages=$(sed 's/#.*//' packages | xargs | tr ' ' ,)
rm -rf --one-file-system "$ROOTFS_DIR"
mkdir -p "$STAGE_WORK_DIR"
# What the packages' own scripts read is there before them. In the hook $1 is mmdebstrap's own.
# shellcheck disable=SC2016
mmdebstrap --mode=root --variant=minbase --architectures=arm64 --components='main non-free-firmware' \
    --include="$packages" --setup-hook='cp -rT files "$1"' --aptopt='Acquire::Languages "none"' \
    "${RELEASE:-trixie}" "$ROOTFS_DIR"
