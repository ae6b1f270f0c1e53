#!/bin/bash
# The first process of new mount, PID, UTS, IPC and cgroup namespaces (machine.py starts it): lays a throw-away root over
# this machine's own, and becomes systemd in it. boot.sh DIRECTORY INSTALLED CHECKOUT
set -euo pipefail
work=$1 installed=$2 checkout=$3 root=$1/root

mount --make-rprivate /
mkdir "$work/layers" "$root"
mount -t tmpfs -o size=512m layers "$work/layers"
mkdir "$work"/layers/{upper,work,checkout,checkout-work}
mount -t overlay -o "lowerdir=/,upperdir=$work/layers/upper,workdir=$work/layers/work" overlay "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
groups=$root/sys/fs/cgroup
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
  mount -t cgroup2 cgroup2 "$groups"
else # limits are enforced by the old hierarchies, units are tracked in the new one
  mount -t tmpfs -o mode=755 groups "$groups"
  mkdir "$groups/unified" "$groups/systemd" "$groups/memory" "$groups/pids"
  mount -t cgroup2 cgroup2 "$groups/unified"
  mount -t cgroup -o none,name=systemd systemd "$groups/systemd"
  mount -t cgroup -o memory memory "$groups/memory"
  mount -t cgroup -o pids pids "$groups/pids"
fi

mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs run -o mode=755 "$root/run"
mkdir "$root/run/lock"
mount -t tmpfs tmp "$root/tmp"

mkdir -p "$root/opt/rotator" "$root/srv/rotator"
mount --bind "$installed" "$root/opt/rotator"
# The checkout may lie on a file system of its own, or below /tmp: it has one place there.
mount -t overlay -o "lowerdir=$checkout,upperdir=$work/layers/checkout,workdir=$work/layers/checkout-work" \
  overlay "$root/srv/rotator"
# Nothing of what this machine would start by itself.
rm -f "$root"/etc/systemd/system/*.wants/* "$root/etc/fstab"
printf '%s\n' '[Unit]' 'Requires=sysinit.target dbus.socket' 'After=sysinit.target dbus.socket' \
  > "$root/etc/systemd/system/test.target"

cd "$root"
mkdir outside
pivot_root . outside
umount -l /outside
# Without this the service manager cannot hand credentials over: they come up empty.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --unit=test.target --log-target=journal
