#!/bin/sh
# Builds Postern as releases are built: the same sources give the same bytes, wherever they
# lie and whoever builds.
#
#   deploy/build.sh build postern       one binary, for GOOS and GOARCH or this machine
#   deploy/build.sh release dist        every platform, with bills of materials and checksums
#   deploy/build.sh check               build twice, in two places, and compare
#
# What makes it so: no C (CGO_ENABLED=0), no path of this machine (-trimpath), no id that the
# linker draws (-buildid=), no flags of the environment, the modules of go.sum. The version,
# the commit and whether the sources were changed come from git, by the go command itself;
# `postern version` shows them, and with which Go: build with the same one to compare.
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOEXPERIMENT='' GOAMD64=v1 GOARM64=v8.0

build() { # build OUT: from the sources in the current directory
  vcs=false
  if git rev-parse --git-dir >/dev/null 2>&1; then vcs=true; fi
  go build -trimpath -buildvcs=$vcs -ldflags "-s -w -buildid= ${VERSION:+-X main.version=$VERSION}" -o "$1" ./cmd/postern
}

absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

release() {
  mkdir -p "$1"
  build "$1/.postern" # whose bill of materials is that of another platform, it can read too
  for platform in linux/amd64 linux/arm64 darwin/arm64; do
    name=postern_${platform%/*}_${platform#*/}
    GOOS=${platform%/*} GOARCH=${platform#*/} build "$1/$name"
    "$1/.postern" version --sbom --binary "$1/$name" >"$1/$name.cdx.json"
  done
  rm "$1/.postern"
  (cd "$1" && sha256sum postern_* >SHA256SUMS && cat SHA256SUMS)
}

# The second build has another directory, another home and nothing in its cache.
check() {
  work=$(mktemp -d)
  trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
  trap 'exit 1' INT TERM
  for place in one another/place/that/is/longer; do
    mkdir -p "$work/$place"
    if git rev-parse --git-dir >/dev/null 2>&1; then git clone --quiet --shared --no-checkout . "$work/$place"; fi
    { git ls-files -z --cached --others --exclude-standard 2>/dev/null || find . -type f -print0; } |
      tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$work/$place"
    if [ -d "$work/$place/.git" ]; then git -C "$work/$place" reset --quiet; fi
  done
  modules=$(go env GOMODCACHE)
  (cd "$work/one" && build "$work/first")
  (cd "$work/another/place/that/is/longer" && HOME=$work/home GOMODCACHE=$modules GOCACHE=$work/cache build "$work/second")
  (cd "$work" && sha256sum first second)
  if ! cmp "$work/first" "$work/second"; then echo "two builds of the same sources differ" >&2; exit 1; fi
}

case ${1:-} in
build) build "$(absolute "${2:-postern}")" ;;
release) release "$(absolute "${2:-dist}")" ;;
check) check ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
