"""Measures the service as its users meet it, beside anchors measured in the same run.

Prints a table on standard error and one JSON object on standard output; exit code 1 when a target is missed.
Everything happens on the loopback interface, in a temporary data directory, bounded in number and time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import zmq
from bare import BareKernel
from book import Book
from fleet import Wish
from live.service import Service, running_service
from ours import Caller, Session
from peer import measure_peer
from processes import cpu_seconds, free_port, program, resident_mib
from report import judge, machine, table
from work import Amount, measure_runs, measure_starts

HERE = Path(__file__).parent
LISTED = 100
#: Seconds until PostgreSQL has counted what happened: its processes report only every ten.
SETTLE = 12.0
#: How often at most this is waited until all agents that said hello are written down.
MOST_SETTLES = 10
#: Seconds of watching, however quick the bench: leases and sweeps fall too unevenly for less.
WATCHED = 30.0
LIST_QUERY = """
query($limit: Int!, $offset: Int!, $status: String) {
  compute_session_list(limit: $limit, offset: $offset, status: $status) {
    items { id image type status status_info status_changed result abusing_reports }
    total_count
  }
}
"""


class Bench:
    """One service under measurement, and what was found so far."""

    def __init__(self, scratch: Path, amount: Amount, seconds: float, agents: int) -> None:
        self._scratch = scratch
        self._amount = amount
        self._seconds = seconds
        self._agents = agents
        #: Where agents deliver; TCP as between hosts, though this host could do with less.
        self.events = f"tcp://127.0.0.1:{free_port()}"
        self.figures: dict[str, Any] = {}

    def sessions(self, service: Service) -> None:
        """Starts from the warm pool, and runs."""
        open_session = partial(Session, service.endpoint, service.keys())
        self.figures["ours"] = {
            "start_ms": measure_starts(open_session, self._amount),
            **measure_runs(open_session, self._amount),
        }

    def cold_starts(self) -> None:
        """Starts on a service that keeps no kernels ready."""
        with running_service(self._scratch / "cold", "--warm-pool", "0") as service:
            open_session = partial(Session, service.endpoint, service.keys())
            self.figures["cold"] = {"start_ms": measure_starts(open_session, self._amount)}

    def bare(self) -> None:
        self.figures["bare"] = measure_runs(BareKernel, self._amount)

    def peer(self) -> None:
        self.figures["peer"] = measure_peer(self._amount, self._scratch / "peer")

    def requests(self, service: Service) -> None:
        """Signed requests per second, in turn with an empty handler."""
        with closing(Session(service.endpoint, service.keys())) as session, self._empty_handler() as empty:
            for _ in range(self._amount.rounds):
                self._keep_best("empty", self._drive(empty, "--connections=16"))
                self._keep_best("info", self._load(service, f"/session/{session.name}", 16))
                self._keep_best("auth", self._load(service, "/auth?echo=bench", 8))

    def session_list(self, service: Service) -> None:
        """GraphQL: the list of all running sessions, by the administrator."""
        query = self._scratch / "query.json"
        variables = {"limit": LISTED, "offset": 0, "status": "RUNNING"}
        query.write_text(json.dumps({"query": LIST_QUERY, "variables": variables}))
        caller = Caller(service.endpoint, service.keys(admin=True))
        found = caller.call("POST", "/admin/gql", json.loads(query.read_text()))["data"][
            "compute_session_list"
        ]
        caller.close()
        if len(found["items"]) != LISTED:
            raise SystemExit(f"{found['total_count']} sessions are listed instead of {LISTED}")
        for _ in range(self._amount.rounds):
            result = self._load(service, "/admin/gql", 8, method="POST", body=query, admin=True)
            self._keep_best("list", result)

    def fleet(self, service: Service) -> None:
        """Simulated agents: what their heartbeats cost the gateway, in processor time and in SQL."""
        keys = {f"bench-{n:04}": zmq.curve_keypair() for n in range(self._agents)}
        kernels = {uuid4(): agent_id for agent_id in list(keys)[:LISTED]}
        book = Book(service.data_dir)
        book.admit_agents({agent_id: public.decode() for agent_id, (public, _) in keys.items()})
        book.add_running_sessions(service.keys(admin=True)[0], kernels)
        manager = json.loads((service.data_dir / "keys" / "manager.json").read_text())
        wish = Wish(
            endpoint=self.events,
            manager_key=manager["public_key"],
            agents=[
                (agent_id, public.decode(), secret.decode(), [k for k, a in kernels.items() if a == agent_id])
                for agent_id, (public, secret) in keys.items()
            ],
        )
        with book.without_autovacuum(), program(sys.executable, HERE / "fleet.py") as simulator:
            time.sleep(SETTLE)
            idle = self._watch(service, book)
            assert simulator.stdin is not None
            assert simulator.stdout is not None
            simulator.stdin.write(msgspec.json.encode(wish).decode() + "\n")
            simulator.stdin.flush()
            if simulator.stdout.readline() != "accepted\n":
                raise SystemExit("the manager did not accept the simulated agents")
            self._settle(book, idle["transactions_per_s"])
            beating = self._watch(service, book)
            simulator.stdin.close()
            told = json.loads(simulator.stdout.readline())
        self.figures["fleet"] = {"idle": idle, "beating": beating, **told}

    def _settle(self, book: Book, idle: float) -> None:
        """Wait until agents that had to say hello twice are written down too, and nothing is but when idle.

        If heartbeats wrote, that would never be. What is watched next tells.
        """
        for _ in range(MOST_SETTLES):
            before = book.transactions()
            time.sleep(SETTLE)
            if book.transactions() - before < SETTLE * (idle + 1):
                return

    def _watch(self, service: Service, book: Book) -> dict[str, float]:
        """Share of one core that the gateway uses, and transactions per second, over a while."""
        gateway = service.pid("gateway")
        cpu, transactions, begin = cpu_seconds(gateway), book.transactions(), time.monotonic()
        time.sleep(WATCHED)
        cpu, transactions = cpu_seconds(gateway) - cpu, book.transactions() - transactions
        elapsed = time.monotonic() - begin
        return {
            "core_percent": round(100 * cpu / elapsed, 1),
            "transactions_per_s": round(transactions / elapsed, 2),
        }

    @contextmanager
    def _empty_handler(self) -> Iterator[str]:
        """The address of the anchor while the body lasts."""
        with program(sys.executable, HERE / "empty_handler.py", "0") as process:
            assert process.stdout is not None
            yield process.stdout.readline().strip()

    def _keep_best(self, name: str, result: dict[str, Any]) -> None:
        if name not in self.figures or result["rps"] > self.figures[name]["rps"]:
            self.figures[name] = result

    def _load(
        self, service: Service, path: str, connections: int, *, admin: bool = False, **more: Any
    ) -> Any:
        options = [f"--{name}={value}" for name, value in more.items()]
        keys = ":".join(service.keys(admin=admin))
        return self._drive(
            service.endpoint, f"--path={path}", f"--connections={connections}", f"--keys={keys}", *options
        )

    def _drive(self, url: str, *options: str) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "load.py"), url, f"--seconds={self._seconds}", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300)
        result: dict[str, Any] = json.loads(done.stdout)
        if result["problems"]:
            raise SystemExit(f"{url} {options[:1]}: {result['problems']}")
        return result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--peer", action="store_true", help="measure a Jupyter Kernel Gateway in the same run"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it works")
    parser.add_argument("--agents", type=int, default=2000, help="simulated agents (%(default)s)")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    amount = Amount(starts=2, runs=20, rounds=1, rest=1.5) if given.quick else Amount()
    on = machine()
    with tempfile.TemporaryDirectory(prefix="bai-bench-") as directory:
        # the databases may run as another user than this one
        scratch = Path(directory)
        scratch.chmod(0o755)
        bench = Bench(scratch, amount, seconds=1.0 if given.quick else 5.0, agents=given.agents)
        bench.bare()
        if given.peer:
            bench.peer()
        bench.cold_starts()
        with running_service(scratch / "data", "--events-endpoint", bench.events) as service:
            Book(service.data_dir).lift_limits()
            bench.sessions(service)
            bench.requests(service)
            bench.fleet(service)
            bench.session_list(service)
            bench.figures["resident_mib"] = resident_mib(service.pid("gateway"))
    rows = judge(bench.figures)
    print(table(rows), file=sys.stderr)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    verdicts = {row.work: row.met for row in rows}
    print(json.dumps({"date": when, "machine": on, "figures": bench.figures, "met": verdicts}, indent=2))
    return 1 if False in verdicts.values() else 0


if __name__ == "__main__":
    sys.exit(main())
