#!/bin/sh
# The image without an engine: where nothing may make namespaces, buildah builds it in a chroot, on a base that
# debootstrap makes. As root: containers/chroot.sh WORK VERSION. What it leaves is the image localhost/parley and what is
# in the folder WORK; a base that is there already is taken again.
set -eu
work=$1 version=$2
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
here=$(cd "$(dirname "$0")/.." && pwd)
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

# make_base NAME PACKAGES: an image localhost/NAME, a minimal Debian with these packages
make_base() {
    buildah inspect --type image "localhost/$1" >/dev/null 2>&1 && return
    rm -rf "$work/root"
    debootstrap --variant=minbase --include="$2" "$suite" "$work/root" ${MIRROR:-} >"$work/debootstrap.txt" 2>&1 ||
        { tail -20 "$work/debootstrap.txt" >&2; exit 1; }
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/root" / >/dev/null
    buildah commit --quiet --rm "$container" "localhost/$1" >/dev/null
    rm -rf "$work/root"
}

mkdir -p "$work"
make_base parley-base python3,ca-certificates
make_base parley-build-base python3,python3-venv,ca-certificates
# How this machine reaches an index for pip, if it says so: mounted for the build alone, nothing of it is in the image.
set -- --build-arg BASE=localhost/parley-base --build-arg BUILD_BASE=localhost/parley-build-base --build-arg "VERSION=$version"
echo "[global]" >"$work/pip.conf"
for name in INDEX_URL EXTRA_INDEX_URL FIND_LINKS CERT; do
    eval "value=\${PIP_$name:-}"
    [ -z "$value" ] || echo "$(echo "$name" | tr 'A-Z_' 'a-z-') = $value" >>"$work/pip.conf"
    case $value in /*) [ ! -e "$value" ] || set -- "$@" --volume "$value:$value:ro" ;; esac
done
buildah build --format docker --pull-never --layers=false --tag localhost/parley --file "$here/Containerfile" \
    --volume "$work/pip.conf:/etc/pip.conf:ro" "$@" "$here"
