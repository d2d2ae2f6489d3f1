#!/bin/bash
# Sourced by molecule/run and molecule/lab: the container engine that the test hosts run on.

# Start docker where none answers. A second daemon beside a first one would take its bridge away, so it is started only
# where there is none; its process id is left in the file that is named, for the one who stops it.
# usage: engine_up FOLDER
engine_up() {
    docker info >/dev/null 2>&1 && return
    if [ "$(id -u)" != 0 ]; then
        echo "No docker answers: start it, or run this as root; then it starts one." >&2
        return 1
    fi
    mkdir -p "$1"
    setsid dockerd >"$1/dockerd.log" 2>&1 </dev/null &
    echo $! >"$1/dockerd.pid"
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$(cat "$1/dockerd.pid")" 2>/dev/null || break
        sleep 1
    done
    echo "dockerd did not come up:" >&2
    tail -n 20 "$1/dockerd.log" >&2
    return 1
}

# Stop the docker that engine_up started, and no other.
# usage: engine_down FOLDER
engine_down() {
    [ -e "$1/dockerd.pid" ] || return 0
    local pid
    pid=$(cat "$1/dockerd.pid")
    rm -f "$1/dockerd.pid"
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] || return 0
    kill "$pid"
    for _ in $(seq 30); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 1
    done
}

# Let programs of the Pi's architecture run here: what Debian's packages set up at boot, where nothing booted.
emulation_up() {
    local formats=/proc/sys/fs/binfmt_misc
    [ "$(uname -m)" != aarch64 ] || return 0
    [ -e "$formats/register" ] || mount -t binfmt_misc binfmt_misc "$formats"
    [ -e "$formats/qemu-aarch64" ] || update-binfmts --enable qemu-aarch64
}
