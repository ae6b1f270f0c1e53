"""The image, built from the Dockerfile as it stands and run, on a machine without an engine or a registry of images.

The base is a stand-in under the real one's name, unless the real one is in podman's storage: Debian packages, and in
/usr/local a CPython 3.12 of this machine, or where it has none Debian's 3.11. So what can be shown here is everything
but the base's own content: that is the one thing that a release has to look at.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = "docker.io/library/python:3.12-slim-bookworm"
LABEL = "rotator-test"  # of every container
STAMP = "1700000000"  # of every file and layer, so that two builds can be equal
# As it is before the tests get a home of their own, and nothing of the machine's.
OUTSIDE = dict(os.environ)
PYENV = Path(OUTSIDE.get("PYENV_ROOT", Path.home() / ".pyenv"))
LIBRARIES = (
    "ca-certificates,libbz2-1.0,libexpat1,libffi8,libgdbm6,liblzma5,libncursesw6,libnsl2,libreadline8,"
    "libsqlite3-0,libssl3,libtirpc3,libuuid1,netbase,tzdata,zlib1g"
)
OF_DEBIAN = "python3.11,python3.11-venv,python3-pip-whl"
OF_THIS_MACHINE = """
    cp -a "$python"/. "$1/usr/local/"
    cd "$1/usr/local/lib"
    rm -rf libpython3.12.a python3.12/config-* python3.12/test python3.12/site-packages ../bin/pip*
    mkdir python3.12/site-packages
    ln -sf python3.12 ../bin/python3
    chroot "$1" ldconfig
    chroot "$1" /usr/local/bin/python3 -m ensurepip > /dev/null 2>&1
"""
MOVED_FROM_DEBIAN = """
    cd "$1/usr"
    cp -a lib/python3.11 local/lib/
    cp bin/python3.11 local/bin/
    ln -s python3.11 local/bin/python3
    rm -rf local/lib/python3.11/EXTERNALLY-MANAGED local/lib/python3.11/config-* bin/python3*
    chroot "$1" env PYTHONPATH="$(cd "$1" && echo /usr/share/python-wheels/pip-*.whl)" /usr/local/bin/python3 \
        -m pip install --quiet --no-index --find-links=/usr/share/python-wheels pip
"""
# runc, since crun refuses machines with two generations of control groups; modest limits, since podman's own are more
# than an unprivileged root may set.
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Image:
    """A built image; `podman` runs that program with the settings that it takes here."""

    tag: str
    settings: Path

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs podman to its end."""
        return _run("podman", *arguments, settings=self.settings, check=check)

    def command(self, *options: str, network: str = "host") -> list[str]:
        """The start of a `podman run` that gives a container no more than an orchestrator would."""
        walls = [
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
        ]
        limits = ["--memory=256m", "--pids-limit=128"]
        start = ["run", "--rm", f"--label={LABEL}", f"--network={network}"]
        return [*start, *walls, *limits, *options, self.tag]

    def clear(self) -> None:
        """Ends every container that this or an earlier run of the tests has left."""
        left = self.podman("ps", "--all", "--quiet", f"--filter=label={LABEL}").stdout.split()
        if left:
            self.podman("rm", "--force", *left)


@contextmanager
def image() -> Iterator[Image]:
    """The image, built once in a run of the tests; whoever has it is alone with podman and with the daemon's port."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    where = Path(tempfile.gettempdir()) / "rotator-test-image"
    with where.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        where.mkdir(exist_ok=True)
        settings = where / "containers.conf"
        settings.write_text(CONTAINERS)
        made = Image(f"rotator-test:{run}", settings)
        made.clear()
        if not _exists(BASE, settings):
            _stand_in(where, settings)
        if not _exists(made.tag, settings):
            old = made.podman("images", "--quiet", "--filter=reference=rotator-test").stdout.split()
            made.podman("rmi", "--force", *old, check=False)
            # A copy, so that all builds of a run see the same sources, whatever happens in the checkout meanwhile.
            shutil.rmtree(where / "context", ignore_errors=True)
            left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")
            shutil.copytree(ROOT, where / "context", ignore=left_out)
            build(made.tag, settings)
        yield made
        made.clear()


def _exists(tag: str, settings: Path) -> bool:
    return _run("podman", "image", "exists", tag, settings=settings, check=False).returncode == 0


def build(tag: str, settings: Path, *options: str) -> str:
    """Builds the Dockerfile from a copy of this checkout; pip finds packages where the machine's own does."""
    where = settings.parent
    pip, volumes = pip_settings()
    (where / "pip.conf").write_text(pip)
    volumes.append(f"{where / 'pip.conf'}:/etc/pip.conf:ro")
    isolation = [
        "--layers=false",
        "--format=docker",
        "--isolation=oci",
        "--runtime=runc",
        "--network=host",
        "--pull-never",
    ]
    mounts = [f"--volume={volume}" for volume in volumes]
    stamp = [f"--timestamp={STAMP}"]
    _run(
        *(
            "buildah",
            "build",
            "--quiet",
            *isolation,
            *mounts,
            *stamp,
            *options,
            "--tag",
            tag,
            str(where / "context"),
        ),
        settings=settings,
    )
    return tag


def pip_told() -> dict[str, str]:
    """What this machine's pip is told by files and variables: `index-url` and its like, several values with spaces."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env=OUTSIDE,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    told = {}
    for line in listed.splitlines():
        name, _, quoted = line.partition("=")
        # A variable comes last and counts, as it does for pip.
        told[name.rpartition(".")[2]] = quoted.strip("'\"").replace("\\n", " ")
    return told


def pip_settings() -> tuple[str, list[str]]:
    """A pip.conf that says the same, and the paths that it names, as volumes."""
    told = pip_told()
    lines = ["[global]", *(f"{name} = {value}" for name, value in told.items())]
    words = [word.removeprefix("file://") for value in told.values() for word in value.split()]
    # The parent: an index of files refers to its neighbours.
    places = [place.removesuffix("/simple") for place in words if place.startswith("/")]
    named = [place for place in dict.fromkeys(places) if Path(place).exists()]
    return "\n".join(lines) + "\n", [f"{place}:{place}:ro" for place in named]


def _stand_in(where: Path, settings: Path) -> None:
    """Debian's smallest system with a CPython in /usr/local, and pip, as in the base."""
    python = _python("3.12")
    packages, steps = (LIBRARIES, OF_THIS_MACHINE)
    if python is None:
        packages, steps = (f"{LIBRARIES},{OF_DEBIAN}", MOVED_FROM_DEBIAN)
    clean = 'find "$1/usr/local" -name __pycache__ -prune -exec rm -rf {} +'
    hook = f"set -e; python='{python}'; {steps} {clean}"
    tree = where / "base.tar"
    options = ["--quiet", "--variant=minbase", f"--include={packages}", f"--customize-hook={hook}"]
    _run("mmdebstrap", *options, "bookworm", str(tree), settings=settings)
    path = "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"
    changes = ["--change", 'CMD ["python3"]', "--change", path]
    _run("podman", "import", "--quiet", *changes, str(tree), BASE, settings=settings)
    tree.unlink()


def _python(version: str) -> Path | None:
    """Where this machine has a CPython of that version that is not Debian's."""
    candidates = [*(PYENV / "versions").glob(f"{version}.*"), Path("/usr/local")]
    found = (place for place in candidates if (place / "bin" / f"python{version}").exists())
    return next(found, None)


def _run(*command: str, settings: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=OUTSIDE | {"CONTAINERS_CONF": str(settings)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0 or not check, f"{' '.join(command[:4])}: {done.stderr[-3000:]}"
    return done
