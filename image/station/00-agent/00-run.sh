#!/bin/bash -e
# What changes often, and what the station does by itself when it is booted.
../../provision --tags agent,update,firstboot
# Raspberry Pi OS does not start where its boot partition is damaged; a station takes data then.
sed -i -E 's|^(\S+\s+/boot/firmware\s+vfat\s+)defaults(\s)|\1defaults,noatime,nofail,x-systemd.device-timeout=60\2|' "$ROOTFS_DIR/etc/fstab"
