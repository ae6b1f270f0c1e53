"""Metrics for Prometheus: what the process has done, and how its policies stand.

Names, units and meanings are listed in docs/metrics.md. What was done is counted as it happens. How the policies stand
is told as it was last seen, by times of creation and of the last success, never by ages: an age in a file that nobody
writes any more would stand still, and look healthy.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from rotator import __version__
from rotator.reporting.events import Fields
from rotator.reporting.rows import Standing
from rotator.secrecy.sinks import scrub

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Seconds: requests, phases.
SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Rotations, exposure.
LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
WAITS = (0.01, 0.1, 1, 5, 15, 60, 300, 900, 3600)
# Letters of an owner, or of the tags together.
LONGEST_LABEL = 100
# Outcomes that are not worth a time series.
QUIET = ("not-due", "unchanged")
# The event that ends a phase, the phase, and the events of which the latest began it.
PHASES = {
    "rotation.issued": ("issue", ("rotation.issuing",)),
    "rotation.staged": ("stage", ("rotation.issued",)),
    "rotation.verified": ("verify", ("rotation.issued",)),
    "rotation.published": ("publish", ("rotation.issued", "rotation.staged", "rotation.verified")),
    "rotation.settled": ("settle", ("rotation.published",)),
}
DELIVERY = ("delivered", "failed")
CLAIMS = {"rotation.started": "won", "rotation.recovered": "taken-over"}
OVER = ("rotation.settled", "rotation.failed")


class Metrics:
    """The metrics of one process. Safe for use by many threads; nothing in here ever raises for what it is told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds."""
        # Else every counter has a second series, which nobody asked for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the package has types but for this one
        self._clock = clock
        self._lock = threading.Lock()
        # Policy -> event -> when.
        self._marks: dict[str, dict[str, float]] = {}
        self._registry = CollectorRegistry()
        # Not for the textfile: node_exporter has its own.
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._policies = _Policies()
        self._registry.register(self._policies)
        build = Gauge(
            "rotator_build_info", "The running version.", ["version"], registry=self._registry
        )
        build.labels(__version__).set(1)
        self._rotations = self._counter(
            "rotator_rotations",
            "Outcomes of rotations, adoptions and repairs.",
            "policy",
            "outcome",
        )
        self._failures = self._counter(
            "rotator_failures", "Failed rotations, by what failed.", "phase", "kind"
        )
        self._hooks = self._counter(
            "rotator_hooks_failed", "Rotations after which hooks failed at every try.", "policy"
        )
        self._claims = self._counter(
            "rotator_claims", "Claims: won, taken over from a run that is gone, or held elsewhere.", "result"
        )  # fmt: skip
        self._retired = self._counter("rotator_keys_retired", "Keys that were retired.", "why")
        self._took = self._histogram(
            "rotator_rotation_duration_seconds", "From first look to last write.", LONG, "outcome"
        )
        self._phases = self._histogram(
            "rotator_phase_duration_seconds",
            "How long the phases of rotations took.",
            SHORT,
            "phase",
        )
        self._exposure = self._histogram(
            "rotator_exposure_seconds",
            "From sending the issuing request until consumers can read the new key from Vault.",
            LONG,
        )
        self._ecgrid = self._requests("ecgrid", "ECGrid")
        self._vault = self._requests("vault", "Vault")
        self._rate_wait = self._histogram(
            "rotator_ecgrid_rate_wait_seconds", "Waits for the rate limiter before requests to ECGrid.", WAITS
        )  # fmt: skip
        self._leaks = self._counter(
            "rotator_leaks_prevented", "Secrets that were taken out of what was about to be told."
        )
        self._told = self._counter(
            "rotator_notifications",
            "Notifications to the webhook: delivered, or given up.",
            "result",
        )
        self._held_back = Gauge(
            "rotator_held_back", "1 while issuing is held back, by kind of error.", ["kind"], registry=self._registry
        )  # fmt: skip
        self._ends = Gauge(
            "rotator_credential_end_timestamp_seconds",
            "When the rotator's own credential ends.",
            ["credential"],
            registry=self._registry,
        )
        self._ticks = self._counter("rotator_ticks", "Looks round all policies.", "result")
        for counter, results in ((self._ticks, ("ok", "failed")), (self._told, DELIVERY)):
            # So that the first one counts as an increase.
            for result in results:
                counter.labels(result)
        self._last_tick = Gauge(
            "rotator_last_tick_timestamp_seconds",
            "When the last tick ended that could look round all policies.",
            registry=self._registry,
        )
        self._tick_took = self._histogram(
            "rotator_tick_duration_seconds", "How long looking round took.", LONG
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)

    def _requests(self, name: str, said: str) -> tuple[Counter, Histogram]:
        return (
            self._counter(
                f"rotator_{name}_requests",
                f"Requests to {said}, by operation and by status or kind of error.",
                "operation",
                "status",
            ),
            self._histogram(
                f"rotator_{name}_request_duration_seconds",
                f"How long requests to {said} took.",
                SHORT,
                "operation",
            ),
        )

    # what happens

    def ecgrid_call(self, call: str, status: str, seconds: float) -> None:
        """A request to ECGrid: the call, the HTTP status or the kind of error, how long it took."""
        _count_request(self._ecgrid, call, status, seconds)

    def vault_call(self, operation: str, status: str, seconds: float) -> None:
        """A request to Vault: the operation, `ok` or the kind of error, how long it took."""
        _count_request(self._vault, operation, status, seconds)

    def rate_wait(self, seconds: float) -> None:
        """A wait for the rate limiter."""
        self._rate_wait.observe(seconds)

    def event(self, name: str, policy: str, fields: Fields) -> None:
        """An event of a rotation, as it is logged; the time between two tells how long a phase took."""
        now = self._clock()
        with self._lock:
            if name in CLAIMS:
                self._marks[policy] = {}
            marks = self._marks.setdefault(policy, {})
            marks[name] = now
            phase, began = PHASES.get(name, ("", ()))
            since = [marks[mark] for mark in began if mark in marks]
            if name in OVER:
                del self._marks[policy]
        if since:
            self._phases.labels(phase).observe(now - max(since))
        if name in CLAIMS:
            self._claims.labels(CLAIMS[name]).inc()
        elif name == "rotation.hooks_failed":
            self._hooks.labels(policy).inc()
        elif name == "rotation.retired":
            self._retired.labels(str(fields.get("why"))).inc()
        elif name == "rotation.published" and (exposure := fields.get("exposure_s")) is not None:
            self._exposure.observe(exposure)

    def outcome(
        self, policy: str, outcome: str, seconds: float, phase: str | None, kind: str | None
    ) -> None:
        """What a run over a policy came to; `phase` and `kind` of error if it failed."""
        if outcome == "busy":
            self._claims.labels("elsewhere").inc()
        if outcome in QUIET:
            return
        self._rotations.labels(policy, outcome).inc()
        self._took.labels(outcome).observe(seconds)
        if kind is not None:
            self._failures.labels(phase or "", kind).inc()

    def held_back(self, kinds: Mapping[str, bool]) -> None:
        """Whether the fleet holds issuing back, by kind of error."""
        for kind, held in kinds.items():
            self._held_back.labels(kind).set(held)

    def credentials(self, ends: Mapping[str, datetime | None]) -> None:
        """When the rotator's own credentials end; None: never, or nobody knows, and nothing is told."""
        for credential, moment in ends.items():
            if moment is not None:
                self._ends.labels(credential).set(moment.timestamp())
            else:
                with suppress(KeyError):
                    self._ends.remove(credential)

    def notified(self, delivered: bool) -> None:
        """A notification was delivered, or given up."""
        self._told.labels(DELIVERY[0] if delivered else DELIVERY[1]).inc()

    def leak_prevented(self, _place: str) -> None:
        """A secret was taken out of something that was about to be told."""
        self._leaks.inc()

    @contextmanager
    def tick(self) -> Iterator[None]:
        """Counts a tick, as failed if it raises."""
        began, result = self._clock(), "failed"
        try:
            yield
            result = "ok"
            self._last_tick.set_to_current_time()
        finally:
            self._ticks.labels(result).inc()
            self._tick_took.observe(self._clock() - began)

    # how things stand

    def stand(self, standing: Standing) -> None:
        """How the policies stand now: replaces what was told before."""
        self._policies.standing = standing

    def vault_token_ttl(self, left: Callable[[], float]) -> None:
        """Asks `left` at each scrape how many seconds the login at Vault still lives."""
        name, meaning = "rotator_vault_token_ttl_seconds", "Seconds until the login at Vault ends."
        Gauge(name, meaning, registry=self._registry).set_function(left)

    def vault_clock_skew(self, ahead: Callable[[], float]) -> None:
        """Asks `ahead` at each scrape by how many seconds Vault's clock is ahead of this machine's."""
        name = "rotator_vault_clock_skew_seconds"
        meaning = "How far Vault's clock is ahead of this machine's."
        Gauge(name, meaning, registry=self._registry).set_function(ahead)

    # what is shown

    def page(self) -> bytes:
        """Everything, in Prometheus' text format (`CONTENT_TYPE`)."""
        return _scrubbed(self._registry) + _scrubbed(self._process)

    def write(self, path: Path) -> None:
        """Writes a textfile for node_exporter's collector, in one piece; raises OSError if it cannot.

        The file may be read by everybody, whatever the umask: node_exporter runs as somebody else.
        """
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(_scrubbed(self._registry))
            draft.chmod(0o644)
            draft.replace(path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise


def _scrubbed(registry: CollectorRegistry) -> bytes:
    return scrub(generate_latest(registry).decode(), "metrics").encode()


def _count_request(
    metrics: tuple[Counter, Histogram], operation: str, status: str, seconds: float
) -> None:
    counter, histogram = metrics
    counter.labels(operation, status).inc()
    histogram.labels(operation).observe(seconds)


class _Policies(Collector):
    """How the policies stand: a few gauges for each, made anew at every scrape from what was last seen."""

    def __init__(self) -> None:
        self.standing: Standing | None = None

    def describe(self) -> Iterable[Metric]:
        return self._families(Standing(datetime.now(UTC)))

    def collect(self) -> Iterable[Metric]:
        return [] if self.standing is None else self._families(self.standing)

    def _families(self, standing: Standing) -> Iterable[Metric]:
        rows, moment = standing.rows, standing.at.timestamp()
        meaning = "When the policies' records were last read."
        yield GaugeMetricFamily("rotator_policies_read_timestamp_seconds", meaning, value=moment)
        states = GaugeMetricFamily("rotator_policies", "Policies by state.", labels=["state"])
        for state, count in sorted(Tally(row.state for row in rows).items()):
            states.add_metric([state], count)
        yield states
        now_in = GaugeMetricFamily(
            "rotator_policy_state", "1 for the state that the policy is in.", labels=["policy", "state"]
        )  # fmt: skip
        for row in rows:
            now_in.add_metric([row.policy, row.state], 1)
        yield now_in
        whose = GaugeMetricFamily(
            "rotator_policy_info", "Whose the policy is: join it by `policy`.", labels=["policy", "owner", "tags"]
        )  # fmt: skip
        for policy, owner in standing.owners.items():
            name, tags = owner.name or "", ",".join(owner.tags)
            whose.add_metric([policy, name[:LONGEST_LABEL], tags[:LONGEST_LABEL]], 1)
        yield whose
        yield _gauge(
            "rotator_key_created_timestamp_seconds",
            "When the published key was made.",
            ((row.policy, round(moment - row.key_age.total_seconds())) for row in rows if row.key_age is not None),
        )  # fmt: skip
        yield _gauge(
            "rotator_key_max_age_seconds",
            "The age from which on the key is overdue.",
            ((row.policy, row.max_age.total_seconds()) for row in rows if row.max_age is not None),
        )
        yield _gauge(
            "rotator_last_success_timestamp_seconds",
            "When the policy was last rotated or adopted.",
            ((row.policy, row.last_rotated_at.timestamp()) for row in rows if row.last_rotated_at),
        )  # fmt: skip
        yield _gauge(
            "rotator_next_due_timestamp_seconds",
            "When the next rotation is or was due.",
            ((row.policy, row.next_due_at.timestamp()) for row in rows if row.next_due_at),
        )
        yield _gauge(
            "rotator_keys_to_retire",
            "Replaced and stray keys that are still to be retired.",
            ((row.policy, standing.debts.get(row.policy, 0)) for row in rows),
        )


def _gauge(name: str, meaning: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=["policy"])
    for policy, value in values:
        family.add_metric([policy], value)
    return family
