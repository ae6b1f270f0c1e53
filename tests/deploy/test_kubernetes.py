"""The manifests, put together as kustomize does it: held against schemas and rules, and their containers really run."""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import Finished, Rotator, Started, VaultServer, until
from image import ROOT, Image, image
from manifests import Object, faults, label, template

from rotator.sandbox.ecgrid import Running

pytestmark = pytest.mark.deploy

WAYS = ("cronjob", "daemon", "indexed")
VERSIONS = ("1.30", "1.33", "1.37")
OPERATORS = (
    "ServiceMonitor",
    "PrometheusRule",
)  # of the Prometheus operator: no part of Kubernetes' schema
TOOLS = Path(sys.executable).parent
ACCOUNT = "system:serviceaccount:rotator:rotator"
POLICY = """\
user_id: {user}
visibility: Private
schedule: {{every: 1s}}
grace: 0
max_age: 60d
vault: {{path: "ecgrid/{{name}}"}}
"""


def rendered(way: str) -> list[Object]:
    """The objects of a directory, as `kubectl apply --kustomize` would send them."""
    return kustomized(ROOT / "kubernetes" / way)


def kustomized(directory: Path) -> list[Object]:
    """What kustomize makes of that directory."""
    command = [str(TOOLS / "kubectl"), "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def schema_faults(objects: list[Object], version: str, tmp_path: Path) -> str:
    """What kubernetes-validate says, strictly; the empty text if it says nothing."""
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(one for one in objects if one["kind"] not in OPERATORS))
    options = ["--strict", "--kubernetes-version", version]
    command = [str(TOOLS / "kubernetes-validate"), *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    return (done.stdout + done.stderr) if done.returncode else ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_the_schema_accepts_the_manifests(way: str, version: str, tmp_path: Path) -> None:
    """Strictly, so that an unknown field is an error; in the oldest and the newest version that is promised."""
    assert schema_faults(rendered(way), version, tmp_path) == ""


def test_the_schema_finds_an_unknown_field_and_a_wrong_type(tmp_path: Path) -> None:
    """The validator really looks."""
    for path, value in (("schedul", "* * * * *"), ("startingDeadlineSeconds", "soon")):
        objects = rendered("cronjob")
        workload(objects)["spec"][path] = value
        assert schema_faults(objects, VERSIONS[-1], tmp_path) != ""


@pytest.mark.parametrize("way", WAYS)
def test_the_manifests_keep_the_rules_that_no_schema_knows(way: str) -> None:
    """References, selectors, enumerations, quantities, schedules, settings, Pod Security "restricted"."""
    assert faults(rendered(way)) == []


def workload(objects: list[Object]) -> Object:
    """The one that has pods."""
    (found,) = [one for one in objects if template(one)]
    return found


def pod(objects: list[Object]) -> Object:
    """Its pod."""
    made = template(workload(objects))
    assert made is not None
    spec: Object = made["spec"]
    return spec


def container(objects: list[Object]) -> Object:
    """Its container."""
    one: Object = pod(objects)["containers"][0]
    return one


def job(objects: list[Object]) -> Object:
    """What is started at each time."""
    spec: Object = workload(objects)["spec"]["jobTemplate"]["spec"]
    return spec


def of_kind(objects: list[Object], kind: str) -> Object:
    """The first object of that kind."""
    return next(one for one in objects if one["kind"] == kind)


DEFECTS: dict[str, tuple[str, Callable[[list[Object]], Any]]] = {
    "cron": ("cronjob", lambda o: workload(o)["spec"].update(schedule="*/10 * * *")),
    "zone": ("cronjob", lambda o: workload(o)["spec"].update(timeZone="Mars/Base")),
    "concurrency": ("cronjob", lambda o: workload(o)["spec"].update(concurrencyPolicy="forbid")),
    "deadline": ("cronjob", lambda o: workload(o)["spec"].update(startingDeadlineSeconds=5)),
    "late": ("cronjob", lambda o: workload(o)["spec"].update(startingDeadlineSeconds=1800)),
    "no-ttl": ("cronjob", lambda o: job(o).pop("ttlSecondsAfterFinished")),
    "restart": ("cronjob", lambda o: pod(o).update(restartPolicy="Always")),
    "grace": ("daemon", lambda o: pod(o).pop("terminationGracePeriodSeconds")),
    "completion-mode": ("indexed", lambda o: job(o).update(completionMode="indexed")),
    "completions": ("indexed", lambda o: job(o).update(completions=6)),
    "name": ("daemon", lambda o: workload(o)["metadata"].update(name="Rotator")),
    "port": ("daemon", lambda o: container(o)["ports"][0].update(containerPort=94640)),
    "probe": ("daemon", lambda o: container(o)["livenessProbe"]["httpGet"].update(port="web")),
    "target": (
        "daemon",
        lambda o: of_kind(o, "Service")["spec"]["ports"][0].update(targetPort="web"),
    ),
    "selector": ("daemon", lambda o: of_kind(o, "Service")["spec"]["selector"].update(app="x")),
    "monitor": (
        "daemon",
        lambda o: of_kind(o, "ServiceMonitor")["spec"]["selector"]["matchLabels"].update(a="x"),
    ),
    "budget": (
        "daemon",
        lambda o: of_kind(o, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(
            a="x"
        ),
    ),
    "quantity": ("cronjob", lambda o: container(o)["resources"]["limits"].update(memory="64MB")),
    "request": ("cronjob", lambda o: container(o)["resources"]["requests"].update(memory="1Gi")),
    "mount": ("cronjob", lambda o: container(o)["volumeMounts"][0].update(name="policy")),
    "secret": ("cronjob", lambda o: pod(o)["volumes"][1]["secret"].update(secretName="ecgrid")),
    "config-map": (
        "cronjob",
        lambda o: container(o)["envFrom"][0]["configMapRef"].update(name="settings"),
    ),
    "account": ("cronjob", lambda o: pod(o).update(serviceAccountName="default")),
    "latest": ("cronjob", lambda o: container(o).update(image="rotator:latest")),
    "setting": (
        "cronjob",
        lambda o: container(o)["env"].append({"name": "ROTATOR_DEADLIN", "value": "2m"}),
    ),
    "twice": ("cronjob", lambda o: container(o)["env"].append(container(o)["env"][0])),
    "links": ("cronjob", lambda o: pod(o).pop("enableServiceLinks")),
    "root": ("cronjob", lambda o: pod(o)["securityContext"].update(runAsUser=0)),
    "may-be-root": ("cronjob", lambda o: pod(o)["securityContext"].pop("runAsNonRoot")),
    "seccomp": ("cronjob", lambda o: pod(o)["securityContext"].pop("seccompProfile")),
    "escalation": (
        "cronjob",
        lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    "privileged": ("cronjob", lambda o: container(o)["securityContext"].update(privileged=True)),
    "capabilities": (
        "cronjob",
        lambda o: container(o)["securityContext"].update(capabilities={"drop": ["NET_RAW"]}),
    ),
    "writable": (
        "cronjob",
        lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem"),
    ),
    "host-network": ("cronjob", lambda o: pod(o).update(hostNetwork=True)),
    "host-path": (
        "cronjob",
        lambda o: pod(o)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    ),
    "host-port": ("daemon", lambda o: container(o)["ports"][0].update(hostPort=9464)),
    "init": ("cronjob", lambda o: pod(o).update(initContainers=[{"name": "i", "image": "i:1"}])),
}


@pytest.fixture(scope="module")
def originals() -> dict[str, list[Object]]:
    """The manifests as they ship, rendered once."""
    return {way: rendered(way) for way in WAYS}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(originals: dict[str, list[Object]], defect: str) -> None:
    """Each rule objects to the manifest that breaks it."""
    way, plant = DEFECTS[defect]
    objects = copy.deepcopy(originals[way])
    plant(objects)
    assert faults(objects) != []


def test_the_overlay_of_the_readme_can_be_put_together(tmp_path: Path) -> None:
    """As it stands, beside a checkout called rotator: its image, its Vault, its policies, and no fault."""
    shutil.copytree(ROOT / "kubernetes", tmp_path / "rotator" / "kubernetes")
    shutil.copytree(ROOT / "policies", tmp_path / "mine" / "policies")
    page = (ROOT / "kubernetes" / "README.md").read_text()
    (overlay,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine" / "kustomization.yaml").write_text(overlay)
    objects = kustomized(tmp_path / "mine")
    assert faults(objects) == []
    assert container(objects)["image"] == "registry.example.net/edi/rotator:0.1.0"
    (settings,) = [one for one in objects if label(one) == "ConfigMap/rotator-settings"]
    assert settings["data"]["VAULT_ADDR"] == "https://vault.example.net:8200"
    (policies,) = [one for one in objects if label(one) == "ConfigMap/rotator-policies"]
    assert set(policies["data"]) == {"edi-gateway.yaml", "nightly-batch.yaml"}


def test_the_sample_policy_is_the_one_that_ships() -> None:
    """The cluster's first policy is the project's first sample."""
    name = "edi-gateway.yaml"
    mine = ROOT / "kubernetes" / "base" / "policies" / name
    assert mine.read_text() == (ROOT / "policies" / name).read_text()


# A cluster's identity: a key that signs service account tokens, and the one API that Vault asks.


class Cluster:
    """Signs tokens as a cluster does, and reviews them as its API server does."""

    def __init__(self, where: Path) -> None:
        self._key = where / "key.pem"
        _openssl("genrsa", "-out", str(self._key), "2048")
        self.public = _openssl("rsa", "-in", str(self._key), "-pubout")
        # Vault wants an authority for the API; this one is served on loopback, without TLS.
        subject = ["-subj", "/CN=cluster", "-days", "1"]
        self.authority = _openssl("req", "-x509", "-new", "-key", str(self._key), *subject)
        self.reviews = 0

    def token(self, account: str = ACCOUNT, audience: str = "vault") -> str:
        """A service account's token for that audience, as a projected volume has it."""
        _, _, namespace, name = account.split(":")
        now = int(time.time())
        claims = {
            "iss": "https://kubernetes.default.svc",
            "sub": account,
            "aud": [audience],
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": "u-1"},
            },
        }
        signed = ".".join(
            _encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims)
        )
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(
            command, input=signed.encode(), check=True, capture_output=True, timeout=60
        ).stdout
        return f"{signed}.{_encoded(signature)}"

    def review(self, asked: Object) -> Object:
        """The answer to a TokenReview: who the token's account is, if the signature and the audience are right."""
        self.reviews += 1
        token = asked["spec"]["token"]
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        wanted = asked["spec"].get("audiences") or ["vault"]
        status: Object = {"authenticated": False}
        if self._verified(token) and set(wanted) & set(claims["aud"]):
            user = {"username": claims["sub"], "uid": "u-1", "groups": ["system:serviceaccounts"]}
            status = {"authenticated": True, "user": user, "audiences": wanted}
        return {**asked, "status": status}

    def _verified(self, token: str) -> bool:
        """Whether this cluster's key has signed it."""
        signed, _, signature = token.rpartition(".")
        (self._key.parent / "public.pem").write_text(self.public)
        (self._key.parent / "signature").write_bytes(base64.urlsafe_b64decode(signature + "=="))
        command = ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature"]
        done = subprocess.run(
            command,
            input=signed.encode(),
            cwd=self._key.parent,
            check=False,
            capture_output=True,
            timeout=60,
        )
        return done.returncode == 0

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of its API, where Vault may ask for reviews."""
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = self.path == "/apis/authentication.k8s.io/v1/tokenreviews"
                answer = json.dumps(cluster.review(json.loads(body)) if found else {}).encode()
                self.send_response(201 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()


def _openssl(*arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture(params=["kubernetes", "jwt"])
def login(
    request: pytest.FixtureRequest, tmp_path: Path, vault: VaultServer, mount: str
) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """A cluster, and Vault configured for it with the policy and the role that ship; the settings that differ."""
    method, name = request.param, f"{request.param}-{secrets.token_hex(6)}"
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    hcl = (ROOT / "vault" / "rotator.hcl").read_text().replace('"secret/', f'"{mount}/')
    vault.call("PUT", f"sys/policies/acl/{name}", {"policy": hcl})
    vault.call("POST", f"sys/auth/{name}", {"type": method})
    with cluster.served() as url:
        config: Object = {"jwt_validation_pubkeys": [cluster.public]}
        if method == "kubernetes":
            config = {"kubernetes_host": url, "kubernetes_ca_cert": cluster.authority}
            config["disable_local_ca_jwt"] = True
        vault.call("POST", f"auth/{name}/config", config)
        role = json.loads((ROOT / "vault" / f"{method}.json").read_text())
        vault.call("POST", f"auth/{name}/role/rotator", role | {"token_policies": [name]})
        yield cluster, {"ROTATOR_VAULT__AUTH": method, "ROTATOR_VAULT__AUTH_MOUNT": name}
    vault.call("DELETE", f"sys/auth/{name}")
    vault.call("DELETE", f"sys/policies/acl/{name}")


class Kubelet:
    """Runs the containers of manifests as they are written, in the image that the Dockerfile makes."""

    def __init__(
        self, built: Image, command: Rotator, where: Path, settings: dict[str, str]
    ) -> None:
        """`settings` are what an operator changes in the ConfigMap: addresses, and this test's names in Vault."""
        self._image, self._command, self._where, self._settings = built, command, where, settings
        key = command.environment.pop("ROTATOR_ECGRID__API_KEY")
        self.secrets = {"rotator-ecgrid": {"api-key": key}}
        self.token = ""
        self._runs = 0

    def run(self, objects: list[Object]) -> Finished:
        """The workload's container to its end."""
        return self.finished(self.start(objects))

    def finished(self, started: Started, *, send: signal.Signals | None = None) -> Finished:
        """What it left behind, which shows no secret; after a signal, if one is given."""
        done = started.finish(send=send, timeout=300)
        self._command.assert_silent(done.stdout, done.stderr)
        return done

    def start(self, objects: list[Object], **downward: str) -> Started:
        """The workload's container; `downward` is what the job controller adds to its variables."""
        spec = pod(objects)
        one = spec["containers"][0]
        given: dict[str, str] = {}
        for source in one["envFrom"]:
            (found,) = [
                o for o in objects if label(o) == f"ConfigMap/{source['configMapRef']['name']}"
            ]
            given |= found["data"] | self._settings
        given |= {entry["name"]: entry["value"] for entry in one["env"]} | downward
        self._runs += 1
        where = self._where / f"pod-{self._runs}"
        volumes = {
            volume["name"]: self._volume(volume, where, objects, spec) for volume in spec["volumes"]
        }
        options = [f"--env={name}={value}" for name, value in given.items()]
        options += [
            f"--volume={volumes[at['name']]}:{at['mountPath']}:ro" for at in one["volumeMounts"]
        ]
        outer = spec["securityContext"]
        options += [
            f"--user={outer['runAsUser']}:{outer['runAsGroup']}",
            f"--group-add={outer['fsGroup']}",
        ]
        options += [f"--stop-timeout={spec['terminationGracePeriodSeconds']}", "--no-healthcheck"]
        memory = one["resources"]["limits"]["memory"].removesuffix("i").lower()
        command = self._image.command(f"--memory={memory}", *options)
        self._command.program = ("podman", *command)
        return self._command.start(*one.get("command", []), *one["args"])

    def _volume(self, volume: Object, where: Path, objects: list[Object], spec: Object) -> Path:
        """A directory as the kubelet makes it: files in a dated one, links to them, owned by root and the group."""
        at = where / str(volume["name"])
        (at / "..data-1").mkdir(parents=True)
        if "configMap" in volume:
            (found,) = [
                o for o in objects if label(o) == f"ConfigMap/{volume['configMap']['name']}"
            ]
            files, mode = found["data"], 0o644
        elif "secret" in volume:
            files, mode = (
                self.secrets[volume["secret"]["secretName"]],
                volume["secret"]["defaultMode"],
            )
        else:
            (source,) = volume["projected"]["sources"]
            assert source["serviceAccountToken"]["audience"] == "vault"
            files = {source["serviceAccountToken"]["path"]: self.token}
            mode = volume["projected"]["defaultMode"]
        (at / "..data").symlink_to("..data-1")
        for name, text in files.items():
            file = at / "..data-1" / name
            file.write_text(text)
            file.chmod(mode)
            os.chown(file, 0, spec["securityContext"]["fsGroup"])
            (at / name).symlink_to(f"..data/{name}")
        return at


@pytest.fixture(scope="module")
def built() -> Iterator[Image]:
    """The image."""
    with image() as made:
        yield made


@pytest.fixture
def kubelet(
    built: Image, rotator_command: Rotator, tmp_path: Path, login: tuple[Cluster, dict[str, str]]
) -> Iterator[Kubelet]:
    """A node whose pods reach this test's Vault and simulator, with a token of the rotator's service account."""
    tmp_path.chmod(0o755)
    own = rotator_command.environment
    given = {
        name: own[name]
        for name in own
        if name.startswith("ROTATOR_") and name != "ROTATOR_ECGRID__API_KEY"
    }
    del given["ROTATOR_HTTP__LISTEN"]
    settings = {"VAULT_ADDR": own["VAULT_ADDR"], **given, **login[1]}
    rotator_command.environment |= {
        "PATH": os.environ["PATH"],
        "CONTAINERS_CONF": str(built.settings),
        "HOME": "/root",
    }
    made = Kubelet(built, rotator_command, tmp_path, settings)
    made.token = login[0].token()
    rotator_command.secrets.add(made.token)
    yield made
    built.clear()


def with_policies(objects: list[Object], policies: dict[str, str]) -> list[Object]:
    """The same, with other policies in the ConfigMap."""
    mine = copy.deepcopy(objects)
    next(one for one in mine if label(one) == "ConfigMap/rotator-policies")["data"] = policies
    return mine


def test_the_pod_of_the_cronjob_rotates_as_it_is_written(
    kubelet: Kubelet,
    originals: dict[str, list[Object]],
    simulator: Running,
    vault: VaultServer,
    mount: str,
) -> None:
    """Logged in with its service account's token: adopts, then rotates; the settings are the manifest's."""
    objects = with_policies(originals["cronjob"], {"edi.yaml": POLICY.format(user=5001)})
    outcomes: list[str] = []
    while outcomes[-1:] != ["rotated"] and len(outcomes) < 5:
        done = kubelet.run(objects)
        assert done.code == 0, done.stderr
        outcomes += re.findall(r"^edi +(\S+)", done.stdout, re.MULTILINE)
        assert '"event"' in done.stderr  # ROTATOR_LOG__FORMAT=json
        assert "read by everybody" not in done.stderr  # the modes of the mounted secrets
    assert (outcomes[0], outcomes[-1]) == ("adopted", "rotated")
    value = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]["api_key"]
    assert simulator.simulator.who(value) == 5001
    assert simulator.simulator.issued(5001) == 1


@pytest.mark.parametrize("login", ["jwt"], indirect=True)
def test_the_pods_of_the_indexed_job_share_the_policies(
    kubelet: Kubelet,
    originals: dict[str, list[Object]],
    simulator: Running,
    vault: VaultServer,
    mount: str,
) -> None:
    """Eight at once: each policy is adopted by exactly one of them, and none is left out."""
    names = [f"p{number:02d}" for number in range(12)]
    for number, _ in enumerate(names):
        simulator.simulator.add_user(6000 + number)
        simulator.simulator.add_key(6000 + number)
    policies = {
        f"{name}.yaml": POLICY.format(user=6000 + number) for number, name in enumerate(names)
    }
    objects = with_policies(originals["indexed"], policies)
    shards = range(job(objects)["completions"])
    pods = [kubelet.start(objects, JOB_COMPLETION_INDEX=str(index)) for index in shards]
    done = [kubelet.finished(one) for one in pods]
    assert [one.code for one in done] == [0] * 8, [one.stderr for one in done]
    adopted = [
        name for one in done for name in re.findall(r"^(p\d\d) +adopted", one.stdout, re.MULTILINE)
    ]
    assert sorted(adopted) == names
    assert sum(bool(re.search("adopted", one.stdout)) for one in done) > 1


def test_a_token_of_somebody_else_is_refused(
    kubelet: Kubelet,
    login: tuple[Cluster, dict[str, str]],
    originals: dict[str, list[Object]],
    simulator: Running,
) -> None:
    """Another account's, another audience's, another cluster's: exit 1, and nothing is issued."""
    objects = with_policies(originals["cronjob"], {"edi.yaml": POLICY.format(user=5001)})
    cluster = login[0]
    other = "system:serviceaccount:default:default"
    for token in (
        cluster.token(other),
        cluster.token(audience="api"),
        f"{cluster.token()[:-20]}{'A' * 20}",
    ):
        kubelet.token = token
        done = kubelet.run(objects)
        assert done.code == 1, done.stderr
        assert "Vault" in done.stderr or "vault" in done.stderr
    assert simulator.simulator.issued(5001) == 0


@pytest.mark.parametrize("login", ["kubernetes"], indirect=True)
def test_the_pod_of_the_daemon_answers_its_probes_and_ends_in_time(
    kubelet: Kubelet, originals: dict[str, list[Object]], simulator: Running
) -> None:
    """Alive and ready at the paths and the port that are written there, rotating; SIGTERM is a good end."""
    objects = with_policies(originals["daemon"], {"edi.yaml": POLICY.format(user=5001)})
    one = container(objects)
    (port,) = [port["containerPort"] for port in one["ports"]]
    started = kubelet.start(objects)
    for probe in ("livenessProbe", "readinessProbe"):
        url = f"http://127.0.0.1:{port}{one[probe]['httpGet']['path']}"
        until(partial(answers, url), f"the {probe} passes", 120)
    until(lambda: simulator.simulator.issued(5001) >= 1, "it rotates", 120)
    # podman hands the signal on to process 1 of the container.
    done = kubelet.finished(started, send=signal.SIGTERM)
    assert done.code == 0, done.stderr


def answers(url: str) -> bool:
    """Whether a kubelet would take that for a success."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("login", ["kubernetes"], indirect=True)
def test_a_pod_with_a_bad_policy_ends_with_what_the_failure_policy_names(
    kubelet: Kubelet, originals: dict[str, list[Object]]
) -> None:
    """So that the job fails at once, and is not tried again."""
    objects = with_policies(originals["cronjob"], {"edi.yaml": "user_id: many\n"})
    rules = job(objects)["podFailurePolicy"]["rules"]
    (codes,) = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
    assert kubelet.run(objects).code in codes


@pytest.mark.parametrize("login", ["kubernetes"], indirect=True)
def test_a_job_on_demand_is_the_same_pod_with_another_command(
    kubelet: Kubelet, originals: dict[str, list[Object]], simulator: Running
) -> None:
    """What `kubectl create job --from` copies, changed as the README's jq does it: it rotates at once."""
    objects = with_policies(originals["cronjob"], {"edi-gateway.yaml": POLICY.format(user=5001)})
    made = {"kind": "Job", "metadata": {"name": "rotate-now"}, "spec": job(objects)}
    page = (ROOT / "kubernetes" / "README.md").read_text()
    (change,) = re.findall(r"jq '([^']+)'", page)
    changed = subprocess.run(
        ["jq", change],
        input=json.dumps(made),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    others = [one for one in objects if one["kind"] != "CronJob"]
    done = kubelet.run([*others, json.loads(changed.stdout)])
    assert done.code == 0, done.stderr
    assert re.search(r"^edi-gateway +rotated", done.stdout, re.MULTILINE)
    assert simulator.simulator.issued(5001) == 1
