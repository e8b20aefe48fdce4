"""Which lookup of the directory answers which root field, and what a query may cost."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from backendai.core.account import Principal
from backendai.core.errors import InvalidParameters
from backendai.gateway.graphql.projection import Field, selection_of, weight_of
from backendai.manager.directory import DirectoryService

Lookup = Callable[..., Coroutine[Any, Any, Any]]

#: Values that one request may ask for, estimated before anything is read.
MAX_WEIGHT = 200_000
#: Estimated length of lists that have no limit of their own.
_LISTED = 10
_ARRAY = 100


def lookups(directory: DirectoryService) -> Mapping[str, Lookup]:
    """Root field to the method that takes the asker, the selection, and the field's arguments by name."""
    sessions, accounts, fleet = directory.sessions, directory.accounts, directory.fleet
    return {
        "agent": fleet.agent,
        "agent_list": fleet.agent_list,
        "agents": fleet.agents,
        "domain": accounts.domain,
        "domains": accounts.domains,
        "group": accounts.group,
        "groups_by_name": accounts.groups_by_name,
        "groups": accounts.groups,
        "image": fleet.image,
        "images": fleet.images,
        "user": accounts.user,
        "user_from_uuid": accounts.user_from_uuid,
        "users": accounts.users,
        "user_list": accounts.user_list,
        "keypair": accounts.keypair,
        "keypairs": accounts.keypairs,
        "keypair_list": accounts.keypair_list,
        "keypair_resource_policy": accounts.keypair_resource_policy,
        "keypair_resource_policies": accounts.keypair_resource_policies,
        "scaling_group": fleet.scaling_group,
        "scaling_groups": fleet.scaling_groups,
        "scaling_groups_for_domain": fleet.scaling_groups_for_domain,
        "scaling_groups_for_user_group": fleet.scaling_groups_for_user_group,
        "scaling_groups_for_keypair": fleet.scaling_groups_for_keypair,
        "compute_session": sessions.compute_session,
        "compute_session_list": sessions.compute_session_list,
        "compute_container": sessions.compute_container,
        "compute_container_list": sessions.compute_container_list,
    }


async def load(directory: DirectoryService, asker: Principal, field: Field) -> Any:
    """The value of one root field with all that is selected below it. Raises what the lookup refuses."""
    lookup = lookups(directory)[field.name]
    return await lookup(asker, selection_of(field.fields or ()), **field.arguments)


def check_weight(roots: tuple[Field, ...]) -> None:
    """Raises :class:`InvalidParameters` for a query that asks for too much at once."""
    if sum(map(_weight, roots)) > MAX_WEIGHT:
        raise InvalidParameters("The query asks for too much at once: select less or lower its limits.")


def _weight(root: Field) -> int:
    below = root.fields or ()
    limit = root.arguments.get("limit")
    if limit is not None:
        return sum(int(limit) * weight_of(field.fields, _LISTED) if field.fields else 1 for field in below)
    return weight_of(below, _LISTED) * (_ARRAY if root.is_list else 1)
