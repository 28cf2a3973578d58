#!/bin/sh
# shadowmesh in one file: unpacks itself once into a versioned directory and runs from there.
set -eu
PATH=${PATH:+$PATH:}/usr/bin:/bin # id, tail, tar and the like, whatever the caller's PATH
if [ "$(id -u)" = 0 ]; then base=/var/cache/shadowmesh
elif [ -n "${HOME:-}" ]; then base=${XDG_CACHE_HOME:-$HOME/.cache}/shadowmesh
else base=/tmp/shadowmesh-$(id -u); fi
base=${SHADOWMESH_UNPACK_DIR:-$base}
dir=$base/@ID@
if [ ! -x "$dir/shadowmesh" ]; then
  umask 022
  mkdir -p "$base" && [ -O "$base" ] || {
    echo "error: can't unpack into $base; say another directory in SHADOWMESH_UNPACK_DIR" >&2; exit 1; }
  tmp=$(mktemp -d "$base/.unpack-XXXXXX")
  trap 'rm -rf "$tmp"' EXIT INT TERM
  tail -n +@LINES@ "$0" | tar -xz -C "$tmp" || {
    echo "error: unpacking into $base failed; is the disk full, or this file cut off?" >&2; exit 1; }
  chmod 755 "$tmp/shadowmesh"
  # another process may have been quicker: then its copy stays
  mv -T "$tmp/shadowmesh" "$dir" 2>/dev/null || [ -x "$dir/shadowmesh" ]
  rm -rf "$tmp"
  trap - EXIT INT TERM
fi
exec "$dir/shadowmesh" "$@"
