"""The image, built from the Dockerfile as it stands and run, on a machine without an engine or a registry of images.

The base is a stand-in under the real one's name: Debian packages, and a CPython of the same version. So what can be
shown here is everything but the base's own content: that is the one thing that a release has to look at.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = "docker.io/library/python:3.12-slim-bookworm"
STAMP = "1700000000"  # of every file and layer, so that two builds can be equal
LIBRARIES = (
    "ca-certificates,libbz2-1.0,libexpat1,libffi8,libgdbm6,liblzma5,libncursesw6,libnsl2,libreadline8,"
    "libsqlite3-0,libssl3,libtirpc3,libuuid1,netbase,tzdata,zlib1g"
)
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

    def command(self, *options: str) -> list[str]:
        """The start of a `podman run` that gives a container no more than an orchestrator would."""
        walls = [
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
        ]
        limits = ["--memory=256m", "--pids-limit=128"]
        return ["run", "--rm", "--network=host", *walls, *limits, *options, self.tag]


@cache
def image() -> Image:
    """Builds the image, once in a process."""
    where = Path(tempfile.mkdtemp(prefix="rotator-image-"))
    settings = where / "containers.conf"
    settings.write_text(CONTAINERS)
    if _run("podman", "image", "exists", BASE, settings=settings, check=False).returncode:
        _stand_in(where, settings)
    return Image(build("rotator-test", settings), settings)


def build(tag: str, settings: Path, *options: str) -> str:
    """Builds the Dockerfile from this checkout; pip finds packages where the machine's own does."""
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
            str(ROOT),
        ),
        settings=settings,
    )
    return tag


def pip_settings() -> tuple[str, list[str]]:
    """A pip.conf that says what this machine's pip is told by files and variables, and the paths that it names."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    lines, volumes = ["[global]"], []
    for line in told.splitlines():
        name, _, quoted = line.partition("=")
        value = quoted.strip("'\"").replace("\\n", " ")
        lines.append(f"{name.rpartition('.')[2]} = {value}")
        places = [word.removeprefix("file://") for word in value.split()]
        # The parent: an index of files refers to its neighbours.
        volumes += [
            place.removesuffix("/simple")
            for place in places
            if place.startswith("/") and Path(place).exists()
        ]
    # A variable comes last and counts, as it does for pip.
    unique = {line.partition(" = ")[0]: line for line in lines}
    return "\n".join(unique.values()) + "\n", [
        f"{place}:{place}:ro" for place in dict.fromkeys(volumes)
    ]


def _stand_in(where: Path, settings: Path) -> None:
    """Debian's smallest system with a CPython 3.12 in /usr/local, and pip, as in the base."""
    python = _python("3.12")
    hook = f"""
        cp -a {python}/. "$1/usr/local/"
        cd "$1/usr/local/lib"
        rm -rf libpython3.12.a python3.12/test python3.12/site-packages ../bin/pip*
        mkdir python3.12/site-packages
        find .. -name __pycache__ -prune -exec rm -rf {{}} +
        ln -sf python3.12 ../bin/python3
        chroot "$1" ldconfig
        chroot "$1" /usr/local/bin/python3 -m ensurepip > /dev/null 2>&1
    """
    tree = where / "base.tar"
    options = ["--quiet", "--variant=minbase", f"--include={LIBRARIES}", f"--customize-hook={hook}"]
    _run("mmdebstrap", *options, "bookworm", str(tree), settings=settings)
    path = "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"
    changes = ["--change", 'CMD ["python3"]', "--change", path]
    _run("podman", "import", "--quiet", *changes, str(tree), BASE, settings=settings)
    tree.unlink()


def _python(version: str) -> Path:
    """Where this machine has a CPython of that version of its own."""
    versions = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser())) / "versions"
    candidates = [*versions.glob(f"{version}.*"), Path("/usr/local")]
    found = [place for place in candidates if (place / "bin" / f"python{version}").exists()]
    assert found, f"no CPython {version} on this machine to make a stand-in for the base image of"
    return found[0]


def _run(*command: str, settings: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env={**os.environ, "CONTAINERS_CONF": str(settings)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0 or not check, f"{' '.join(command[:4])}: {done.stderr[-3000:]}"
    return done
