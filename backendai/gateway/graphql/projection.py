"""From a checked selection to a compact plan, and from loaded records through the plan to the answer.

graphql-core's executor takes about 4 us per value; lists of a hundred sessions need it cheaper. The rules are
the specification's: order of selection, merged duplicates, null propagation, errors with paths. The types of
all objects are known in advance, since no field returns an interface or a union.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSkipDirective,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_directive_values,
    is_list_type,
    is_non_null_type,
    is_object_type,
    is_scalar_type,
)
from graphql.execution.values import VariableValues, get_argument_values

from backendai.core.query import Relation, Selection
from backendai.gateway.graphql.document import Document, QueryRefused
from backendai.gateway.graphql.schema import schema

#: Fields of one operation after fragments have been put in their places.
MAX_FIELDS = 2000
#: Values of these scalars whose Python type is exactly this one go out as they are.
_AS_IS: Mapping[str, type] = {"String": str, "ID": str, "UUID": str, "JSONString": str, "Boolean": bool}

Path = tuple[str | int, ...]
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One member of the answer: ``key`` there, ``source`` in the loaded record."""

    key: str
    name: str
    source: str
    output: GraphQLOutputType
    parent: str
    nodes: Sequence[FieldNode]
    arguments: Mapping[str, Any]
    #: The fields of the object or of each object of the list; None for scalars.
    fields: tuple[Field, ...] | None
    optional: bool
    #: Of a scalar: the Python type that needs no conversion, and the conversion of others where null may be.
    as_is: type | None = None
    convert: Callable[[Any], Any] | None = None
    #: The text of ``__typename``.
    constant: str | None = None

    @property
    def is_list(self) -> bool:
        return is_list_type(_nullable(self.output))


def plan(
    document: Document, operation: OperationDefinitionNode, variables: VariableValues
) -> tuple[Field, ...]:
    """The root fields of a query. Raises :class:`QueryRefused`, also for arguments that cannot be coerced."""
    query = schema().query_type
    if query is None:
        raise TypeError("the schema has no query type")
    planner = _Planner(document, variables)
    try:
        return planner.fields(query, [operation.selection_set])
    except GraphQLError as error:
        raise QueryRefused([error]) from error


def selection_of(fields: Sequence[Field]) -> Selection:
    """What has to be loaded for these fields of a record."""
    plain: set[str] = set()
    relations: dict[str, Relation] = {}
    for field in fields:
        if field.fields is None:
            if field.constant is None:
                plain.add(field.source)
            continue
        wanted = selection_of(field.fields)
        if known := relations.get(field.source):
            wanted = _merged(known.selection, wanted)
        relations[field.source] = Relation(field.name, field.arguments, wanted)
    return Selection(frozenset(plain), relations)


def weight_of(fields: Sequence[Field], listed: int) -> int:
    """About how many values one record costs, when every list below it has ``listed`` entries."""
    total = 0
    for field in fields:
        if field.fields is None:
            total += 1
        else:
            total += weight_of(field.fields, listed) * (listed if field.is_list else 1)
    return total


def source_name(name: str, arguments: Mapping[str, Any]) -> str:
    """Where a record has the value of a field; with arguments, each combination has its own place."""
    if not arguments:
        return name
    return f"{name}({', '.join(f'{key}={arguments[key]!r}' for key in sorted(arguments))})"


def _merged(one: Selection, other: Selection) -> Selection:
    relations = dict(one.relations)
    for source, relation in other.relations.items():
        known = relations.get(source)
        wanted = _merged(known.selection, relation.selection) if known else relation.selection
        relations[source] = Relation(relation.name, relation.arguments, wanted)
    return Selection(one.fields | other.fields, relations)


def _nullable(type_: Any) -> Any:
    return type_.of_type if is_non_null_type(type_) else type_


class _Planner:
    def __init__(self, document: Document, variables: VariableValues) -> None:
        self._document = document
        self._variables = variables
        self._count = 0

    def fields(self, parent: GraphQLObjectType, sets: Sequence[SelectionSetNode]) -> tuple[Field, ...]:
        grouped: dict[str, list[FieldNode]] = {}
        visited: set[str] = set()
        for selection_set in sets:
            for node in self._collect(parent, selection_set, visited):
                grouped.setdefault((node.alias or node.name).value, []).append(node)
        return tuple(self._field(parent, key, nodes) for key, nodes in grouped.items())

    def _collect(
        self, parent: GraphQLObjectType, selection_set: SelectionSetNode, visited: set[str]
    ) -> Iterator[FieldNode]:
        for node in selection_set.selections:
            if not self._included(node):
                continue
            if isinstance(node, FieldNode):
                self._count += 1
                if self._count > MAX_FIELDS:
                    raise GraphQLError(f"More than {MAX_FIELDS} fields.", nodes=node)
                yield node
            elif isinstance(node, InlineFragmentNode):
                if node.type_condition is None or self._matches(parent, node.type_condition.name.value):
                    yield from self._collect(parent, node.selection_set, visited)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in visited:
                visited.add(node.name.value)
                fragment = self._document.fragments[node.name.value]
                if self._matches(parent, fragment.type_condition.name.value):
                    yield from self._collect(parent, fragment.selection_set, visited)

    def _field(self, parent: GraphQLObjectType, key: str, nodes: list[FieldNode]) -> Field:
        name = nodes[0].name.value
        definition = _definition(parent, name)
        given = get_argument_values(definition, nodes[0], self._variables)
        arguments = {key: value for key, value in given.items() if value is not None}
        inner = _nullable(definition.type)
        while is_list_type(inner):
            inner = _nullable(inner.of_type)
        below = None
        if is_object_type(inner):
            below = self.fields(inner, [node.selection_set for node in nodes if node.selection_set])
        return Field(
            key=key,
            name=name,
            source=source_name(name, arguments),
            output=definition.type,
            optional=not is_non_null_type(definition.type),
            parent=parent.name,
            nodes=nodes,
            arguments=arguments,
            fields=below,
            as_is=_AS_IS.get(inner.name) if inner is _nullable(definition.type) else None,
            convert=definition.type.coerce_output_value if is_scalar_type(definition.type) else None,
            constant=parent.name if name == "__typename" else None,
        )

    def _included(self, node: Any) -> bool:
        if not node.directives:
            return True
        skip = get_directive_values(GraphQLSkipDirective, node, self._variables)
        include = get_directive_values(GraphQLIncludeDirective, node, self._variables)
        return not (skip and skip["if"]) and not (include and not include["if"])

    @staticmethod
    def _matches(parent: GraphQLObjectType, condition: str) -> bool:
        type_ = schema().type_map[condition]
        return type_ is parent or (type_ in parent.interfaces)


def _definition(parent: GraphQLObjectType, name: str) -> GraphQLField:
    definition = schema().get_field(parent, name)
    if definition is None:
        raise GraphQLError(f"Cannot query field '{name}' on type '{parent.name}'.")
    return definition


class _NullHere(Exception):
    """A value that must not be null is: the nearest value above it that may be null becomes null."""


class Projection:
    """Turns loaded records into members of the answer, collecting the errors on the way."""

    def __init__(self) -> None:
        self.errors: list[GraphQLError] = []

    def root(self, field: Field, value: Any) -> Any:
        """The member for one root field; None when a value below must not be null and is."""
        try:
            return self._complete(field, field.output, value, (field.key,))
        except _NullHere:
            return None

    def refuse(self, field: Field, message: str) -> None:
        """Note that a root field could not be answered."""
        self._report(message, field, (field.key,))

    def _object(self, fields: Sequence[Field], record: Record, path: Path) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for field in fields:
            if field.constant is not None:
                answer[field.key] = field.constant
                continue
            value = record[field.source]
            if type(value) is field.as_is or (value is None and field.optional):
                answer[field.key] = value
                continue
            if field.convert is not None:
                try:
                    answer[field.key] = field.convert(value)
                    continue
                except GraphQLError:
                    pass  # below, where it is reported with its path
            answer[field.key] = self._complete(field, field.output, value, (*path, field.key))
        return answer

    def _complete(self, field: Field, type_: Any, value: Any, path: Path) -> Any:
        if is_non_null_type(type_):
            completed = self._nullable(field, type_.of_type, value, path)
            if completed is None:
                if not self._reported(path):
                    self._report(
                        f"Cannot return null for non-nullable field {field.parent}.{field.name}.", field, path
                    )
                raise _NullHere
            return completed
        try:
            return self._nullable(field, type_, value, path)
        except _NullHere:
            return None

    def _nullable(self, field: Field, type_: Any, value: Any, path: Path) -> Any:
        if value is None:
            return None
        if is_list_type(type_):
            item_type = type_.of_type
            return [self._complete(field, item_type, item, (*path, at)) for at, item in enumerate(value)]
        if field.fields is not None:
            return self._object(field.fields, value, path)
        convert: Callable[[Any], Any] = type_.coerce_output_value
        try:
            return convert(value)
        except GraphQLError as error:
            self._report(error.message, field, path)
            return None

    def _report(self, message: str, field: Field, path: Path) -> None:
        self.errors.append(GraphQLError(message, nodes=field.nodes, path=list(path)))

    def _reported(self, path: Path) -> bool:
        return any(error.path == list(path) for error in self.errors)
