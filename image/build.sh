#!/bin/bash
# Makes the image of an SD card, build/image/unisat-FLAVOUR.img. What was made once is kept in ~/.cache/unisat/image.
#
# usage: image/build.sh          makes it
#        image/build.sh --hash   prints the hash of all that goes in: an image of this very tree has it in its name
# Environment: FLAVOUR      debian (default), of Debian's packages alone; raspios, of Raspberry Pi OS, needs pi-gen
#              PI_GEN_DIR   a checkout of pi-gen; without it its pinned release is cloned. Where it can't be had, or
#                           PI_GEN_DIR is none, the debian flavour is made by image/run-stages on the same stages
#              FRESH=1      begins with Debian's newest packages, and not with what was kept
set -euo pipefail
cd "$(dirname "$0")/.."
flavour=${FLAVOUR:-debian}
pi_gen_release=2026-06-18-raspios-trixie-arm64
pi_gen_url=https://github.com/RPi-Distro/pi-gen.git
cache=${XDG_CACHE_HOME:-$HOME/.cache}/unisat/image
build=build/image
case $flavour in
    debian) stages=(image/debian image/platform image/station) ;;
    raspios) stages=(stage0 stage1 stage2 image/platform image/station) ;;
    *) echo "FLAVOUR is debian or raspios, not $flavour" >&2; exit 2 ;;
esac
export STAGE_CACHE=$cache/stages

hash() {
    { image/run-stages --hash image/debian image/platform image/station; cat image/assemble image/config; } | sha256sum | cut -c1-12
}
if [ "${1:-}" = --hash ]; then
    hash
    exit
fi

fail() {
    echo "image: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "making an image needs root: sudo make image"
for program in ansible-playbook mcopy mkfs.vfat mmdebstrap parted rsync zstd; do
    command -v "$program" >/dev/null || fail "$program is needed: run it as \`make image\`, which installs it"
done
mkdir -p "$build" "$cache" "$STAGE_CACHE"
# pi-gen can't work in a folder with blanks, and one build at a time works in this one.
case $PWD in *[[:space:]]*) fail "the path $PWD has a blank in it: move the tree" ;; esac
exec 9>"$build/lock"
flock --nonblock 9 || fail "another build is under way in this tree"
begun=$SECONDS
image=$cache/unisat-$flavour-$(hash).img

# Shows where the image is.
finish() {
    ln -sfn "$image" "$build/unisat-$flavour.img"
    echo "image: $build/unisat-$flavour.img, $(($(stat -Lc %s "$image") / 1000000)) MB, in $(((SECONDS - begun) / 60)) min $(((SECONDS - begun) % 60)) s"
}
if [ -e "$image" ] && [ -z "${FRESH:-}" ]; then
    echo "image: nothing has changed since it was made" >&2
    finish
    exit
fi
# shellcheck source=molecule/hosts/engine.sh
. molecule/hosts/engine.sh
emulation_up
[ -z "${FRESH:-}" ] || rm -f "$STAGE_CACHE"/*

trap 'engine_down "$build"' EXIT
trap 'exit 130' INT TERM
engine_up "$build"
echo "image: Kinto's container" >&2
kinto/build-image --arch arm64 --archive build/kinto-arm64.tar.gz >&2
engine_down "$build"

# Prints where pi-gen is; nothing where it can't be had.
pi_gen() {
    case ${PI_GEN_DIR:-} in
        none) return ;;
        '')
            local clone=$cache/pi-gen-$pi_gen_release
            if [ ! -d "$clone" ]; then
                rm -rf "$clone.part" # of a clone that was cut off
                timeout 300 git clone --quiet --depth 1 --branch "$pi_gen_release" "$pi_gen_url" "$clone.part" >&2 || return 0
                mv "$clone.part" "$clone"
            fi
            echo "$clone"
            ;;
        *)
            [ -x "$PI_GEN_DIR/build.sh" ] || fail "PI_GEN_DIR $PI_GEN_DIR has no build.sh: give a checkout of pi-gen, or none"
            realpath "$PI_GEN_DIR"
            ;;
    esac
}

# pi-gen's own build and export, in a copy of it.
# usage: run_pi_gen PI-GEN IMAGE
run_pi_gen() {
    local copy=$PWD/$build/pi-gen given=() stage
    .ci/packages pi-gen
    rsync -a --delete --exclude /.git --exclude /work --exclude /deploy "$1/" "$copy/"
    # Its stages make no image of their own. Nobody is there to be asked for a name, and nothing of the build stays.
    touch "$copy"/stage{2,4,5}/SKIP_IMAGES "$copy/export-image/01-user-rename/SKIP"
    rm -r "$copy/export-image/03-network"
    cp -r image/station/99-clean "$copy/export-image/03-network"
    # Its last step gives a file to the user of systemd-timesyncd, which chrony has taken the place of.
    echo 'id systemd-timesync >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin systemd-timesync' \
        >"$copy/export-image/03-network/01-run-chroot.sh"
    # An empty machine-id is filled at the first boot; this word would have a person asked who is not there.
    sed -i 's/echo "uninitialized" >/: >/' "$copy/export-image/05-finalise/01-run.sh"
    for stage in "${stages[@]}"; do
        [ -d "$stage" ] && given+=("$PWD/$stage") || given+=("$copy/$stage")
    done
    export STAGE_LIST="${given[*]}" WORK_DIR=$PWD/$build/pi-gen-work DEPLOY_DIR=$PWD/$build/pi-gen-deploy
    GIT_HASH=$(git rev-parse HEAD) CLEAN=1 FLAVOUR=$flavour "$copy/build.sh" -c "$PWD/image/config" >&2
    mv "$DEPLOY_DIR/"*"-unisat-$flavour.img" "$2"
}

pi_gen=$(pi_gen)
if [ "$pi_gen" ]; then
    echo "image: by pi-gen in $pi_gen" >&2
    run_pi_gen "$pi_gen" "$image"
elif [ "$flavour" = debian ]; then
    echo "image: pi-gen can't be had; by image/run-stages" >&2
    rootfs=$(WORK_DIR=$PWD/$build/work image/run-stages "${stages[@]}")
    image/assemble "$rootfs" "$image"
    rm -rf --one-file-system "$build/work"
else
    fail "the raspios flavour needs pi-gen: give PI_GEN_DIR, or a way to $pi_gen_url"
fi
# Those of other trees.
find "$cache" -maxdepth 1 -name "unisat-$flavour-*.img" ! -path "$image" -delete
finish
