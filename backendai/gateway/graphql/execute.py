"""Runs a query: loads every root field under Trio, then projects the records, without another await."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError, GraphQLResolveInfo, execute_sync

from backendai.core.account import Principal
from backendai.core.errors import BackendError, ObjectNotFound
from backendai.core.query import QuerySyntaxError
from backendai.gateway.graphql.document import (
    Document,
    QueryRefused,
    coerce_variables,
    present_variables,
    read_document,
)
from backendai.gateway.graphql.projection import Field, Projection, plan, source_name
from backendai.gateway.graphql.roots import check_weight, load
from backendai.gateway.graphql.schema import schema
from backendai.manager.directory import DirectoryService


@dataclass(frozen=True, slots=True)
class Answer:
    """``data`` has one member per root field, in the order of selection; a field that failed is null."""

    data: Mapping[str, Any]
    errors: tuple[GraphQLError, ...]


async def execute(
    directory: DirectoryService,
    asker: Principal,
    text: str,
    variables: Mapping[str, Any],
    operation_name: str | None,
) -> Answer:
    """Raises :class:`QueryRefused` when nothing was executed.

    A refusal by one root field is an error of that field, the others are still answered. Cancellation leaves
    nothing behind: queries only read.
    """
    document = read_document(text)
    operation = document.operation(operation_name)
    present = present_variables(operation, variables)
    roots = plan(document, operation, coerce_variables(operation, present))
    try:
        check_weight(roots)
    except BackendError as refusal:
        raise QueryRefused.because(message_of(refusal)) from refusal
    loaded = {root.key: await _load(directory, asker, root) for root in roots if not _is_meta(root)}
    if any(root.name in ("__schema", "__type") for root in roots):
        return _introspect(document, operation_name, present, loaded)
    return _project(roots, loaded)


def message_of(refusal: BackendError) -> str:
    """A refusal as the text of a GraphQL error: its title, then detail and data if it has them."""
    if isinstance(refusal, QuerySyntaxError):
        return str(refusal)
    text = refusal.full_title if isinstance(refusal, ObjectNotFound) else refusal.title
    if refusal.msg is not None:
        text += f" ({refusal.msg})"
    if refusal.data is not None:
        text += f"\n -> extra_data: {refusal.data}"
    return text


def _is_meta(root: Field) -> bool:
    return root.name.startswith("__")


async def _load(directory: DirectoryService, asker: Principal, root: Field) -> Any:
    """The value, or the refusal in its place."""
    try:
        return await load(directory, asker, root)
    except BackendError as refusal:
        return refusal


def _project(roots: tuple[Field, ...], loaded: Mapping[str, Any]) -> Answer:
    projection = Projection()
    data: dict[str, Any] = {}
    for root in roots:
        if root.constant is not None:
            data[root.key] = root.constant
            continue
        value = loaded[root.key]
        if isinstance(value, BackendError):
            projection.refuse(root, message_of(value))
            value = None
        data[root.key] = projection.root(root, value)
    return Answer(data, tuple(projection.errors))


def _introspect(
    document: Document, operation_name: str | None, present: dict[str, Any], loaded: Mapping[str, Any]
) -> Answer:
    """Questions about the schema are rare; graphql-core answers them, from the same loaded records."""

    def resolve(source: Any, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
        if info.path.prev is not None:
            given = {name: value for name, value in arguments.items() if value is not None}
            return source[source_name(info.field_name, given)]
        value = loaded[str(info.path.key)]
        if isinstance(value, BackendError):
            raise GraphQLError(message_of(value))
        return value

    result = execute_sync(
        schema(),
        document.ast,
        variable_values=present,
        operation_name=operation_name,
        field_resolver=resolve,
    )
    if result.data is None:
        raise QueryRefused(result.errors or ())
    return Answer(result.data, tuple(result.errors or ()))
