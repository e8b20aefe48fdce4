"""Servers inside a sandbox that are started when somebody wants to reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from backendai.core.kernel import ImageSpec, KernelSpec, ServicePort, ServiceSpec
from backendai.engines.contract import Entered, Sandbox, SandboxFailed
from backendai.runner.stream_server import StreamRefused
from backendai.wire import runner as wire

#: Seconds a server has until it takes connections, and between attempts to make one.
_START_TIMEOUT = 60.0
_RETRY = 0.1
#: Bytes of what it printed last, to tell why it has ended.
_TAIL = 4096
#: Seconds for its last words.
_DRAIN = 0.2


def service_ports(image: ImageSpec, spec: KernelSpec) -> tuple[ServicePort, ...]:
    """All that can be reached in a kernel, by name."""
    declared = [
        ServicePort(name=service.name, protocol=service.protocol, ports=service.ports)
        for service in image.services
    ]
    preopen = [ServicePort(name=str(port), protocol="preopen", ports=(port,)) for port in spec.preopen_ports]
    return (*declared, *preopen)


class _Live:
    """A server that was started."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.tail = b""


class Services:
    """Starts each at most once at a time; all end with ``nursery``."""

    def __init__(
        self,
        sandbox: Sandbox,
        nursery: trio.Nursery,
        environ: Callable[[], Mapping[str, str]],
        image: ImageSpec,
    ) -> None:
        self._sandbox = sandbox
        self._nursery = nursery
        self._environ = environ
        self._specs = {service.name: service for service in image.services}
        self._live: dict[str, _Live] = {}
        self._starting = trio.StrictFIFOLock()

    async def start(self, request: wire.StartService) -> int:
        """Have it listen, unless it does; the port. Raises :class:`StreamRefused` and ``SandboxFailed``."""
        spec = self._spec(request.name)
        port = spec.ports[0] if request.port is None else request.port
        if port not in spec.ports:
            raise StreamRefused("bad-request", f"{spec.name} has no port {port}")
        async with self._starting:
            live = self._live.get(spec.name)
            if live is not None and live.scope.cancel_called:
                await live.ended.wait()  # it was stopped: its port is free when it is gone
                live = None
            if live is None:
                environ = {**self._environ(), **request.environ}
                argv = _command(spec, request.arguments)
                live = self._live[spec.name] = _Live(spec.ports[0])
                self._nursery.start_soon(self._run, spec.name, live, argv, environ)
        await self._listening(spec.name, live, port)
        return port

    def stop(self, name: str) -> None:
        """End it, if it runs. Raises :class:`StreamRefused` when there is no such service."""
        self._spec(name)
        if (live := self._live.get(name)) is not None:
            live.scope.cancel()

    def _spec(self, name: str) -> ServiceSpec:
        if name not in self._specs:
            raise StreamRefused("no-such-service", f"no service {name}")
        return self._specs[name]

    async def _run(self, name: str, live: _Live, argv: tuple[str, ...], environ: Mapping[str, str]) -> None:
        try:
            with live.scope:
                async with self._sandbox.enter(argv, environ=environ) as process:
                    await self._attend(process, live)
        except SandboxFailed as error:
            live.tail = error.detail.encode()
        finally:
            live.ended.set()
            del self._live[name]

    async def _attend(self, process: Entered, live: _Live) -> None:
        assert process.errors is not None
        await process.input.aclose()

        async def keep_tail(stream: trio.abc.ReceiveStream) -> None:
            while data := await stream.receive_some():
                live.tail = (live.tail + data)[-_TAIL:]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_tail, process.output)
            nursery.start_soon(keep_tail, process.errors)
            code = await process.wait()
            await trio.sleep(_DRAIN)
            live.tail += f"\n[exit code {code}]".encode()
            nursery.cancel_scope.cancel()

    async def _listening(self, name: str, live: _Live, port: int) -> None:
        """Return once it takes connections on ``port``."""
        with trio.move_on_after(_START_TIMEOUT):
            while not live.ended.is_set():
                try:
                    connection = await self._sandbox.connect(port)
                except OSError:
                    with trio.move_on_after(_RETRY):
                        await live.ended.wait()
                else:
                    await connection.aclose()
                    return
            raise StreamRefused("failed", f"{name} has ended: {live.tail.decode(errors='replace').strip()}")
        live.scope.cancel()
        raise StreamRefused("timeout", f"{name} does not listen on port {port} after {_START_TIMEOUT:g} s")


def _command(spec: ServiceSpec, arguments: Mapping[str, str | tuple[str, ...] | None]) -> tuple[str, ...]:
    words = [word.replace("{port}", str(spec.ports[0])) for word in spec.argv]
    for option, value in arguments.items():
        match value:
            case None:
                words.append(option)
            case str():
                words += [option, value]
            case _:
                words += [word for each in value for word in (option, each)]
    return tuple(words)
