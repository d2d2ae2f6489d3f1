#!/bin/bash -e
# What the build leaves behind, and what each station has to make for itself. Also the last step of an export by pi-gen.
cd "$ROOTFS_DIR"
find var/lib/apt/lists -type f -delete
rm -rf var/cache/apt/*.bin var/cache/apt/archives/*.deb var/cache/ldconfig/* var/cache/man/* root/.ansible tmp/* var/tmp/*
rm -f etc/dpkg/dpkg.cfg.d/unisat-build etc/dpkg/dpkg.cfg.d/99mmdebstrap usr/sbin/policy-rc.d
find var/log -type f -exec truncate -s 0 {} +
rm -f etc/{passwd,group,shadow,gshadow,subuid,subgid}- var/cache/debconf/*-old var/lib/dpkg/*-old
# Its identity. An empty machine-id is filled at the first boot, and does not ask a person who is not there.
rm -f etc/ssh/ssh_host_*_key etc/ssh/ssh_host_*_key.pub var/lib/dbus/machine-id
# Debian's key for whoever has none of his own: it would be the same on all cards.
rm -f etc/ssl/private/ssl-cert-snakeoil.key etc/ssl/certs/ssl-cert-snakeoil.pem
find etc/ssl/certs -xtype l -delete
rm -f var/lib/systemd/random-seed var/lib/systemd/credential.secret
: >etc/machine-id
ln -sfn /run/NetworkManager/resolv.conf etc/resolv.conf
