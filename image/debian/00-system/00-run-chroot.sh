#!/bin/bash
# The person at the station: without a password until unisat.toml or Imager sets one.
useradd --create-home --shell /bin/bash --groups adm,dialout,netdev,sudo,video pi
echo 'pi ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/010_pi-nopasswd
chmod 440 /etc/sudoers.d/010_pi-nopasswd
