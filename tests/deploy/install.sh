#!/usr/bin/env bash
# What `make test-deploy` needs from Debian; run as root. Each check adds its line here.
set -euo pipefail

packages=(
  systemd dbus util-linux iproute2 polkitd man-db python3-venv # a machine with a real service manager (machine.py)
  prometheus                                                   # scrapes, and tests the alerts (test_prometheus.py)
  chromium                                                     # looks at the status page (test_status_page.py)
  buildah podman runc catatonit mmdebstrap                     # an image is built and run (image.py)
  openssl jq                                                   # signatures of a cluster, and a page that uses jq (test_kubernetes.py)
  faketime                                                     # sets a daemon's clock (test_daemon_clock.py)
  bash-completion fish zsh                                     # completions and the manual are used (test_install.py)
)
# axe-core, the accessibility checker, and what operators accept come by their lock files; npm may also be there from elsewhere.
command -v npm > /dev/null || packages+=(npm)

missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed \
    || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update --quiet=2
  apt-get install --quiet=2 --no-install-recommends "${missing[@]}" > /dev/null
fi

# npm is left to its own settings.
for locked in axe operators; do
  npm ci --silent --no-audit --no-fund --prefix "$(dirname "$0")/$locked"
done
