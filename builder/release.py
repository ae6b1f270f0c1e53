"""What a release hands out, the same bytes each time: `python builder/release.py [DIRECTORY]`.

A wheel and a source distribution, a bill of materials (CycloneDX) of what they run with, made from the lock, and the
checksums of all three. Nothing is asked of anybody: the build backend is the one that is installed.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from hashlib import sha256
from pathlib import Path
from typing import Any

import reproducible

LOCK, PROJECT = Path("requirements/run.txt"), Path("pyproject.toml")
NAMESPACE = uuid.UUID(int=0)  # of the serial number, which is a digest of what is in the bill


def main(directory: str = "dist") -> None:
    """Writes all of it; the directory is made, and files of the same names are replaced."""
    out = Path(directory).resolve()
    out.mkdir(parents=True, exist_ok=True)
    sdist, wheel = reproducible.build_sdist(str(out)), reproducible.build_wheel(str(out))
    version = wheel.split("-")[1]
    bill = f"rotator-{version}.cdx.json"
    (out / bill).write_text(json.dumps(materials(version), indent=2) + "\n")
    sums = [
        f"{sha256((out / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted((bill, sdist, wheel))
    ]
    (out / "SHA256SUMS").write_text("".join(sums))


def materials(version: str) -> dict[str, Any]:
    """The bill of materials: the rotator, and every package of the lock by name and version."""
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", LOCK.read_text(), re.MULTILINE))
    project = tomllib.loads(PROJECT.read_text())["project"]
    direct = [plain(re.split(r"[\[<>=!~; ]", one)[0]) for one in project["dependencies"]]
    own = {
        **component("application", project["name"], version),
        "description": project["description"],
    }
    own["licenses"] = [{"license": {"id": project["license"]}}]
    parts = [component("library", name, locked[name]) for name in sorted(locked)]
    refs = [part["bom-ref"] for part in parts if part["name"] in direct]
    digest = json.dumps([own, parts], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"component": own},
        "components": parts,
        "dependencies": [{"ref": own["bom-ref"], "dependsOn": refs}],
    }


def component(kind: str, name: str, version: str) -> dict[str, Any]:
    """A package as the bill names it."""
    purl = f"pkg:pypi/{name}@{version}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def plain(name: str) -> str:
    """A package's name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(*sys.argv[1:])
