# shellcheck shell=bash
# What is built from source: the Kubernetes programs (once, then kept in the cache) and the project's two images.

KUBERNETES_SOURCES=$LOCAL/hyperkube
TARGET=$(uname -m)-unknown-linux-gnu
BINARIES=${CARGO_TARGET_DIR:-$REPOSITORY/target}/$TARGET/release
IMAGES=(cache-node cache-operator)

kubernetes_folder() { # the cache's folder for these sources and this compiler
  local hash
  hash=$(cd "$KUBERNETES_SOURCES" && {
    go env GOVERSION GOARCH
    cat go.mod go.sum main.go pause/main.go
    declare -f version_flags # its result is in the program
  } | sha256sum | cut -c1-16)
  echo "$GANNET_CACHE/kubernetes-$hash"
}

build_kubernetes() { # build_kubernetes FOLDER
  local folder=$1 building
  if [ -x "$folder/bin/hyperkube" ]; then
    remark "built before"
    return
  fi
  mkdir -p "$GANNET_CACHE"
  building=$(mktemp -d "$GANNET_CACHE/building.XXXXXX")
  mkdir "$building/bin"
  # -v: the packages' names are the progress that the step shows.
  (
    cd "$KUBERNETES_SOURCES"
    export CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false'
    go build -v -trimpath -ldflags "-s -w $(version_flags)" -o "$building/bin/" . ./pause helm.sh/helm/v3/cmd/helm
  )
  for component in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns; do
    ln -s hyperkube "$building/bin/$component"
  done
  mv "$building/bin/pause" "$building/pause"
  rm -rf "$folder"
  mv "$building" "$folder"
}

# Not with the programs: it needs root, whose password is asked for before a step and not a long build later.
build_pause() { # build_pause FOLDER
  if [ -e "$1/pause.tar" ]; then
    remark "built before"
    return
  fi
  build_image "$1" pause localhost/pause:1 "$1/pause.tar"
}

# Kubernetes learns its version from its own build scripts; charts refuse a cluster that does not know its version.
version_flags() {
  local version package=k8s.io/component-base/version
  version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
  echo "-X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version") -X $package.gitTreeState=clean"
}

build_binaries() {
  (cd "$REPOSITORY" && RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --locked --release --target "$TARGET" -p cache-node -p cache-operator)
}

build_images() { # into archives in the cache; an image whose program is unchanged is left alone
  local image built=()
  mkdir -p "$GANNET_CACHE/images"
  for image in "${IMAGES[@]}"; do
    if ! image_is_current "$image"; then
      build_image "$BINARIES" "$image" "$(image_name "$image")" "$(image_archive "$image")"
      image_source "$image" >"$(image_archive "$image").source"
      built+=("$image")
    fi
  done
  remark "${built[*]:-unchanged}"
}

image_name() { echo "docker.io/gannet/$1:$(version)"; }
image_archive() { echo "$GANNET_CACHE/images/$1-$(version).tar"; }
image_source() { cat "$BINARIES/$1" "$REPOSITORY/deploy/Dockerfile" | sha256sum; }
image_is_current() {
  [ -e "$(image_archive "$1")" ] && [ "$(image_source "$1")" = "$(cat "$(image_archive "$1").source" 2>/dev/null)" ]
}

# As root and with 'vfs', because it works everywhere: without root, buildah needs sub-ids and a user namespace.
# Nothing is run in these images, so nothing needs isolation. buildah's own storage is thrown away afterwards.
build_image() { # build_image CONTEXT TARGET NAME ARCHIVE
  local storage
  storage=$(mktemp -d)
  rm -f "$4"
  # The archive appears whole or not at all: what is there is taken for good.
  # shellcheck disable=SC2016
  as_root bash -euc '
    storage=$1 context=$2 target=$3 name=$4 archive=$5 dockerfile=$6
    trap "rm -rf --one-file-system \"$storage\"" EXIT
    # Without a word about networks, buildah makes /etc/cni for those that it could start.
    printf "[network]\nnetwork_config_dir = \"%s\"\n" "$storage/networks" >"$storage/containers.conf"
    export CONTAINERS_CONF=$storage/containers.conf
    options=(--root "$storage/root" --runroot "$storage/run" --storage-driver vfs)
    # A fixed time: the same program gives the same image.
    buildah "${options[@]}" bud --isolation chroot --timestamp 0 --target "$target" -f "$dockerfile" -t "$name" "$context"
    buildah "${options[@]}" push "$name" "oci-archive:$storage/archive.tar:$name"
    chmod 644 "$storage/archive.tar"
    chown --reference "$(dirname "$archive")" "$storage/archive.tar"
    mv "$storage/archive.tar" "$archive"' build_image "$storage" "$1" "$2" "$3" "$4" "$REPOSITORY/deploy/Dockerfile"
}

loaded_hash() { cat "$STATE/images/$1" 2>/dev/null || true; }
archive_hash() { sha256sum <"$(image_archive "$1")" | cut -d' ' -f1; }

outdated_images() { # those of which the nodes have another build
  local image
  for image in "${IMAGES[@]}"; do
    [ -z "$(loaded_hash "$image")" ] || [ "$(loaded_hash "$image")" = "$(archive_hash "$image")" ] || echo "$image"
  done
}

load_images() { # gives the nodes those images that they do not have
  local image loaded=()
  for image in "${IMAGES[@]}"; do
    if [ "$(loaded_hash "$image")" != "$(archive_hash "$image")" ]; then
      as_root "$LOCAL/lib/cluster" load "$image" "$(image_archive "$image")"
      loaded+=("$image")
    fi
  done
  remark "${loaded[*]:-unchanged}"
}
