"""From option values to the settings that the parts are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from backendai.agent.settings import AgentKeys, AgentSettings
from backendai.cli import catalogue as c
from backendai.cli.options import BadOption, Settings
from backendai.core.account import Secret
from backendai.embedded.keys import BadKeyFile, ensure_manager_keys, read_agent_keys
from backendai.gateway.settings import GatewaySettings
from backendai.manager.legacy import LegacySettings
from backendai.manager.settings import ManagerKeys, ManagerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What ``backendai up`` itself needs; the rest goes to the processes it starts."""

    data_dir: Path
    service_ip: str
    http_port: int
    https_port: int
    ssl_cert: Path | None
    ssl_key: Path | None
    #: None starts an embedded server.
    database_url: Secret | None = field(repr=False)
    redis_url: Secret | None = field(repr=False)
    events_endpoint: str | None
    orphan_timeout: timedelta
    #: None serves none.
    legacy: LegacySettings | None


def database_url(settings: Settings) -> Secret:
    url = settings.get(c.DATABASE_URL)
    if url is not None:
        return url
    host, port = settings[c.DB_ADDR]
    user = quote(settings[c.DB_USER], safe="")
    password = settings.get(c.DB_PASSWORD)
    login = user if password is None else f"{user}:{quote(password.reveal(), safe='')}"
    return Secret(f"postgresql://{login}@{_host(host)}:{port}/{quote(settings[c.DB_NAME], safe='')}")


def redis_url(settings: Settings) -> Secret:
    url = settings.get(c.REDIS_URL)
    if url is not None:
        return url
    host, port = settings[c.REDIS_ADDR]
    password = settings.get(c.REDIS_PASSWORD)
    login = "" if password is None else f":{quote(password.reveal(), safe='')}@"
    return Secret(f"redis://{login}{_host(host)}:{port}")


def events_endpoint(settings: Settings) -> str:
    return settings.get(c.EVENTS_ENDPOINT) or f"tcp://127.0.0.1:{settings[c.EVENTS_PORT]}"


def manager_keys(settings: Settings) -> ManagerKeys | None:
    """The key pair of the link, made when missing; None when encryption is switched off."""
    if not settings[c.LINK_ENCRYPTION]:
        return None
    try:
        pair = ensure_manager_keys(settings[c.MANAGER_KEYS])
    except BadKeyFile as error:
        raise BadOption(f"{c.MANAGER_KEYS.name}: {error}") from None
    return ManagerKeys(public_key=pair.public_key, secret_key=pair.secret_key)


def manager_settings(settings: Settings) -> ManagerSettings:
    return ManagerSettings(
        database_url=database_url(settings),
        redis_url=redis_url(settings),
        process_id=settings[c.PROCESS_ID],
        facts_endpoint=events_endpoint(settings),
        keys=manager_keys(settings),
        database_pool=settings[c.DATABASE_POOL],
        heartbeat_interval=settings[c.HEARTBEAT_INTERVAL],
        agent_lost_after=settings[c.HEARTBEAT_TIMEOUT],
        agent_reconcile_for=settings[c.AGENT_RECONCILE_FOR],
        scheduler_interval=settings[c.SCHEDULER_INTERVAL],
        sweep_interval=settings[c.SWEEP_INTERVAL],
        pending_timeout=settings[c.PENDING_TIMEOUT],
        start_timeout=settings[c.START_TIMEOUT],
        terminate_timeout=settings[c.TERMINATE_TIMEOUT],
        call_timeout=settings[c.CALL_TIMEOUT],
        streams_per_session=settings[c.STREAMS_PER_SESSION],
        streams=settings[c.STREAMS],
        lease_ttl=settings[c.LEASE_TTL],
        log_retention=settings[c.LOG_RETENTION],
        log_limit=settings[c.LOG_LIMIT],
        replay_limit=settings[c.REPLAY_LIMIT],
        event_retention=settings[c.EVENT_RETENTION],
        callback_networks=settings[c.CALLBACK_NETWORKS],
    )


def gateway_settings(settings: Settings) -> GatewaySettings:
    certificate, key = settings.get(c.SSL_CERT), settings.get(c.SSL_KEY)
    _check_certificate(certificate, key)
    http, https = _ports(settings, certificate is not None)
    return GatewaySettings(
        manager=manager_settings(settings),
        service_ip=settings[c.SERVICE_IP],
        http_port=http,
        https_port=https,
        ssl_cert=certificate,
        ssl_key=key,
        allow_origins=settings[c.ALLOW_ORIGINS],
        max_body=settings[c.MAX_BODY],
        max_message=settings[c.MAX_MESSAGE],
        max_upload=settings[c.MAX_UPLOAD],
        relay_idle=settings[c.RELAY_IDLE],
        grace=settings[c.GRACE].total_seconds(),
        legacy=legacy_settings(settings),
        debug=settings[c.DEBUG],
        log_format=settings[c.LOG_FORMAT],
        log_level=settings[c.LOG_LEVEL],
        ready_fd=settings.get(c.READY_FD),
    )


def legacy_settings(settings: Settings) -> LegacySettings | None:
    """None when the interface is not asked for."""
    port, access_key = settings.get(c.LEGACY_PORT), settings.get(c.LEGACY_ACCESS_KEY)
    if port is None:
        return None
    if access_key is None:
        raise BadOption(
            f"{c.LEGACY_PORT.flag} needs {c.LEGACY_ACCESS_KEY.flag}: its clients cannot say who they are"
        )
    return LegacySettings(
        access_key=access_key,
        ip=settings[c.LEGACY_IP],
        port=port,
        kernel_ip=settings.get(c.KERNEL_IP_OVERRIDE),
    )


def _ports(settings: Settings, has_certificate: bool) -> tuple[int | None, int | None]:
    http, https = settings.get(c.HTTP_PORT), settings.get(c.HTTPS_PORT)
    if https is not None and not has_certificate:
        raise BadOption(f"{c.HTTPS_PORT.flag} needs {c.SSL_CERT.flag} and {c.SSL_KEY.flag}")
    if http is None and https is None:
        # The one option of old, where 0 means the default of its kind.
        port = settings.get(c.SERVICE_PORT) or None
        return (None, port or 8443) if has_certificate else (port or 8080, None)
    if settings.given(c.SERVICE_PORT):
        raise BadOption(f"{c.SERVICE_PORT.flag} excludes {c.HTTP_PORT.flag} and {c.HTTPS_PORT.flag}")
    return http, https


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise BadOption(f"{c.SSL_CERT.flag} and {c.SSL_KEY.flag} belong together: set both or none")
    for path in (certificate, key):
        if path is not None and not path.is_file():
            raise BadOption(f"{path} does not exist")


def agent_keys_path(settings: Settings) -> Path:
    return settings.get(c.AGENT_KEYS) or settings[c.AGENT_DIR] / "keys.json"


def agent_settings(settings: Settings) -> AgentSettings:
    keys, enrolled_endpoint = None, None
    if settings[c.LINK_ENCRYPTION]:
        path = agent_keys_path(settings)
        try:
            enrolled = read_agent_keys(path)
        except BadKeyFile as error:
            raise BadOption(f"{error}; `backendai agent enroll` makes the keys of an agent") from None
        enrolled_endpoint = enrolled.manager_endpoint
        keys = AgentKeys(
            public_key=enrolled.pair.public_key,
            secret_key=enrolled.pair.secret_key,
            manager_public_key=enrolled.manager_public_key,
        )
    if settings.given(c.CLUSTER_ENDPOINT) and keys is None:
        raise BadOption(f"{c.CLUSTER_ENDPOINT.flag} needs {c.LINK_ENCRYPTION.flag}")
    bind = settings.get(c.AGENT_ENDPOINT)
    return AgentSettings(
        agent_id=settings[c.AGENT_ID],
        directory=settings[c.AGENT_DIR],
        manager_endpoint=settings.get(c.MANAGER_ENDPOINT) or enrolled_endpoint or "tcp://127.0.0.1:5002",
        bind=bind or f"tcp://{_host(settings[c.AGENT_IP])}:{settings[c.AGENT_PORT]}",
        advertise=settings.get(c.AGENT_ADVERTISE),
        cluster_bind=settings.get(c.CLUSTER_ENDPOINT),
        cluster_advertise=settings.get(c.CLUSTER_ADVERTISE),
        keys=keys,
        region=settings[c.REGION],
        scaling_group=settings[c.SCALING_GROUP],
        heartbeat_interval=settings[c.HEARTBEAT_INTERVAL],
        warm_pool=settings[c.WARM_POOL],
        warm_images=settings[c.WARM_IMAGES],
        orphan_timeout=settings[c.ORPHAN_TIMEOUT],
        cpu=settings.get(c.AGENT_CPU),
        memory=settings.get(c.AGENT_MEMORY),
        require_full_isolation=settings[c.REQUIRE_FULL_ISOLATION],
        keep_kernels=settings[c.KEEP_KERNELS],
        most_output=settings[c.UNFETCHED_OUTPUT],
        log_format=settings[c.LOG_FORMAT],
        log_level=settings[c.LOG_LEVEL],
        ready_fd=settings.get(c.READY_FD),
    )


def up_settings(settings: Settings) -> UpSettings:
    certificate, key = settings.get(c.SSL_CERT), settings.get(c.SSL_KEY)
    _check_certificate(certificate, key)
    http, https = settings.get(c.HTTP_PORT), settings.get(c.HTTPS_PORT)
    return UpSettings(
        legacy=legacy_settings(settings),
        data_dir=settings[c.DATA_DIR],
        service_ip=settings[c.SERVICE_IP],
        http_port=8080 if http is None else http,
        https_port=8443 if https is None else https,
        ssl_cert=certificate,
        ssl_key=key,
        database_url=settings.get(c.DATABASE_URL),
        redis_url=settings.get(c.REDIS_URL),
        events_endpoint=settings.get(c.EVENTS_ENDPOINT),
        orphan_timeout=settings[c.ORPHAN_TIMEOUT]
        if settings.given(c.ORPHAN_TIMEOUT)
        else timedelta(minutes=1),
    )


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
