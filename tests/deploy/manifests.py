"""What a schema cannot say about manifests: references, selectors, enumerations, quantities, Pod Security "restricted".

`faults` takes the objects of one kustomization, as it comes out of kustomize, and tells everything that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rotator.errors import BadInput
from rotator.schedule import Cron
from rotator.settings import Settings

Object = dict[str, Any]

ONCE_GIVEN = {"Secret/rotator-ecgrid"}  # made by the operator, see kubernetes/README.md
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
UNITS = {"m": Decimal("0.001")}
UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", 1)}
UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", 1)}
VOLUMES = {
    "configMap",
    "secret",
    "projected",
    "emptyDir",
    "downwardAPI",
    "csi",
    "ephemeral",
    "persistentVolumeClaim",
}
CHOICES: dict[str, set[str]] = {
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "completionMode": {"NonIndexed", "Indexed"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "action": {"FailJob", "Ignore", "Count", "FailIndex"},
    "operator": {"In", "NotIn", "Exists", "DoesNotExist"},
}
RESTARTS: dict[str, set[str | None]] = {
    "CronJob": {"Never", "OnFailure"},
    "Job": {"Never", "OnFailure"},
    "Deployment": {"Always", None},
}


def faults(objects: list[Object]) -> list[str]:
    """Everything that is wrong with them, each with the object's kind and name."""
    known = {label(one) for one in objects} | ONCE_GIVEN
    found = []
    for one in objects:
        complaints = [*_of_any(one), *_of_workload(one, objects), *_of_schedule(one)]
        complaints += [f"no {name}" for name in references(one) if name not in known]
        complaints += _of_selector(one, objects)
        found += [f"{label(one)}: {what}" for what in complaints]
    return found


def label(one: Object) -> str:
    """Such as `CronJob/rotator`."""
    return f"{one['kind']}/{one['metadata']['name']}"


def template(one: Object) -> Object | None:
    """The pod template of a workload; None for everything else."""
    job = one.get("spec", {}).get("jobTemplate", one)
    made: Object | None = job.get("spec", {}).get("template") if one["kind"] in RESTARTS else None
    return made


def values(node: Any, name: str) -> Iterator[Any]:
    """Every value under that name, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name and not isinstance(value, dict | list):
                yield value
            yield from values(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, name)


def amount(quantity: Any) -> Decimal | None:
    """A quantity such as 100m or 64Mi as a number; None if it is none."""
    match = QUANTITY.fullmatch(str(quantity))
    return None if match is None else Decimal(match[1]) * (UNITS[match[2]] if match[2] else 1)


def references(one: Object) -> Iterator[str]:
    """The objects that a pod needs."""
    pod = (template(one) or {}).get("spec", {})
    if "serviceAccountName" in pod:
        yield f"ServiceAccount/{pod['serviceAccountName']}"
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield f"ConfigMap/{volume['configMap']['name']}"
        if "secret" in volume:
            yield f"Secret/{volume['secret']['secretName']}"
    for container in pod.get("containers", []):
        for source in container.get("envFrom", []):
            yield f"ConfigMap/{source['configMapRef']['name']}"
        for entry in container.get("env", []):
            kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
            yield from (
                f"{kinds[key]}/{ref['name']}"
                for key, ref in entry.get("valueFrom", {}).items()
                if key in kinds
            )


def _of_any(one: Object) -> Iterator[str]:
    if not NAME.fullmatch(one["metadata"]["name"]):
        yield "the name is none"
    if one["kind"] != "Namespace" and not one["metadata"].get("namespace"):
        yield "no namespace"
    for field, choices in CHOICES.items():
        yield from (f"{field} {value!r}" for value in values(one, field) if value not in choices)
    for field in ("port", "containerPort"):
        yield from (
            f"{field} {value}"
            for value in values(one, field)
            if isinstance(value, int) and not 0 < value < 65536
        )


def _of_schedule(one: Object) -> Iterator[str]:
    spec = one.get("spec", {})
    if one["kind"] != "CronJob":
        return
    try:
        ZoneInfo(spec.get("timeZone", ""))
    except (ZoneInfoNotFoundError, ValueError):
        yield "timeZone is none"
        return
    try:
        period = shortest(spec["schedule"])
    except BadInput as error:
        yield f"schedule: {error}"
        return
    if not 10 <= spec.get("startingDeadlineSeconds", 0) < period.total_seconds():
        yield "startingDeadlineSeconds is not between 10 s and the period"
    if spec.get("concurrencyPolicy") != "Forbid":
        yield "concurrencyPolicy is not Forbid"
    yield from _of_job(spec["jobTemplate"]["spec"], environment(one))


def _of_job(job: Object, environment: list[Object]) -> Iterator[str]:
    for field in ("activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit"):
        if field not in job:
            yield f"no {field}"
    if job.get("completionMode") == "Indexed":
        told = [entry["value"] for entry in environment if entry["name"] == "JOB_COMPLETIONS"]
        if told != [str(job.get("completions"))]:
            yield "JOB_COMPLETIONS is not the number of completions"
        if job.get("parallelism", 1) > job.get("completions", 0):
            yield "more pods at once than completions"


def shortest(schedule: str) -> timedelta:
    """The shortest time between two starts in a day; raises BadInput if it is no cron."""
    minutes = Cron.parse(schedule).minutes
    return timedelta(
        minutes=min((later - sooner for sooner, later in pairwise(minutes)), default=1440)
    )


def environment(one: Object) -> list[Object]:
    """What is written under `env` of the first container."""
    return list((template(one) or {})["spec"]["containers"][0].get("env", []))


def _of_selector(one: Object, objects: list[Object]) -> Iterator[str]:
    """A selector that selects no pod of ours."""
    selector = one.get("spec", {}).get("podSelector") or one.get("spec", {}).get("selector")
    if selector is None or one["kind"] == "ServiceMonitor":
        wanted = selector and selector["matchLabels"]
        services = [
            other["metadata"].get("labels", {}) for other in objects if other["kind"] == "Service"
        ]
        if wanted and not any(wanted.items() <= labels.items() for labels in services):
            yield "it selects no Service"
        return
    wanted = selector.get("matchLabels", selector)
    pods = [made for other in objects if (made := template(other))]
    mine = [made for made in pods if wanted.items() <= made["metadata"]["labels"].items()]
    if not mine:
        yield "it selects no pod"
    named = {
        port["name"]
        for made in mine
        for container in made["spec"]["containers"]
        for port in container.get("ports", [])
    }
    asked = [
        *values(one, "targetPort"),
        *(port for port in values(one, "port") if isinstance(port, str)),
    ]
    yield from (
        f"no port is named {name}" for name in asked if isinstance(name, str) and name not in named
    )


def _of_workload(one: Object, objects: list[Object]) -> Iterator[str]:
    made = template(one)
    if made is None:
        return
    pod = made["spec"]
    if pod.get("restartPolicy") not in RESTARTS[one["kind"]]:
        yield f"restartPolicy {pod.get('restartPolicy')!r}"
    claim = Settings.load({}).claim_ttl.total_seconds()
    if not claim + 10 <= pod.get("terminationGracePeriodSeconds", 30) <= claim + 60:
        yield "terminationGracePeriodSeconds is not a little more than a claim lives"
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    if (
        pod.get("automountServiceAccountToken") is not False
        or pod.get("enableServiceLinks") is not False
    ):
        yield "tokens or variables of the cluster reach the pod"
    for container in pod["containers"]:
        yield from _of_container(container, volumes)
        yield from _of_settings(container, objects)
    yield from unrestricted(pod)


def _of_container(container: Object, volumes: list[str]) -> Iterator[str]:
    mounted = [mount["name"] for mount in container.get("volumeMounts", [])]
    yield from (f"no volume {name}" for name in mounted if name not in volumes)
    yield from (f"the volume {name} is not used" for name in volumes if name not in mounted)
    if not re.search(r":\d[\w.-]*$|@sha256:", container["image"]):
        yield "the image has no version"
    ports = {port["name"] for port in container.get("ports", [])}
    for probe in ("livenessProbe", "readinessProbe"):
        if probe in container and container[probe]["httpGet"]["port"] not in ports:
            yield f"{probe} asks at a port that there is not"
    resources = container.get("resources", {})
    for kind in ("requests", "limits"):
        for name, quantity in resources.get(kind, {}).items():
            if amount(quantity) is None:
                yield f"{kind}.{name} {quantity!r} is no quantity"
    for name, limit in resources.get("limits", {}).items():
        least, most = amount(resources.get("requests", {}).get(name, "0")), amount(limit)
        if least is not None and most is not None and least > most:
            yield f"it requests more {name} than its limit"


def _of_settings(container: Object, objects: list[Object]) -> Iterator[str]:
    """Settings that the rotator would refuse."""
    names = [entry["name"] for entry in container.get("env", [])]
    yield from (
        f"{name} is given twice"
        for name in sorted({name for name in names if names.count(name) > 1})
    )
    given: dict[str, str] = {}
    for source in container.get("envFrom", []):
        wanted = f"ConfigMap/{source['configMapRef']['name']}"
        for other in objects:
            given |= other["data"] if label(other) == wanted else {}
    given |= {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
    try:
        # The files are in the pod, not here.
        Settings.load({name: value for name, value in given.items() if not name.endswith("_FILE")})
    except BadInput as error:
        yield from (str(problem) for problem in error.problems)


def unrestricted(pod: Object) -> Iterator[str]:
    """What the Pod Security Standard "restricted" forbids."""
    yield from (f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    yield from (
        f"volume {one['name']} of a kind that is not allowed"
        for one in pod.get("volumes", [])
        if not VOLUMES & set(one)
    )
    outer = pod.get("securityContext", {})
    if outer.get("sysctls"):
        yield "sysctls"
    for container in [
        *pod.get("initContainers", []),
        *pod["containers"],
        *pod.get("ephemeralContainers", []),
    ]:
        inner = container.get("securityContext", {})
        both = {**outer, **inner}
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            yield "may run as root"
        if inner.get("allowPrivilegeEscalation") is not False or inner.get("privileged"):
            yield "may gain privileges"
        capabilities = inner.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {
            "NET_BIND_SERVICE"
        }:
            yield "keeps capabilities"
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "no seccomp profile"
        if (
            both.get("procMount", "Default") != "Default"
            or both.get("seLinuxOptions")
            or both.get("appArmorProfile")
        ):
            yield "procMount, SELinux or AppArmor"
        if inner.get("readOnlyRootFilesystem") is not True:
            yield "may write its root file system"
        yield from (
            f"hostPort {port['hostPort']}"
            for port in container.get("ports", [])
            if port.get("hostPort")
        )
