"""From query text to a checked document.

Checked documents are kept, since clients send the same few texts again and again. What a hostile text may
cost is bounded before the costly checks: by characters, tokens, nesting, and the number of selections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLInputType,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    get_named_type,
    get_nullable_type,
    get_variable_values,
    is_input_object_type,
    is_list_type,
    is_non_null_type,
    is_type_sub_type_of,
    parse,
    parse_type,
    specified_rules,
    type_from_ast,
    validate,
    visit,
)
from graphql.execution.values import VariableValues

from backendai.gateway.graphql.schema import schema

MAX_TEXT = 32 << 10
MAX_TOKENS = 4000
MAX_DEPTH = 20
MAX_SELECTIONS = 500
MAX_ROOT_FIELDS = 30
MAX_FRAGMENTS = 30
#: Documents kept, and the longest text that is.
_KEPT = 128
_KEPT_TEXT = 4096


class QueryRefused(Exception):
    """The text, its variables or its operation name are not acceptable; nothing was executed."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = tuple(errors)

    @classmethod
    def because(cls, message: str, node: Node | None = None) -> QueryRefused:
        return cls([GraphQLError(message, nodes=node)])


@dataclass(frozen=True, slots=True)
class Document:
    ast: DocumentNode
    operations: Mapping[str | None, OperationDefinitionNode]
    fragments: Mapping[str, FragmentDefinitionNode]

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """Raises :class:`QueryRefused` when the name does not tell which one."""
        if name is None and len(self.operations) == 1:
            return next(iter(self.operations.values()))
        if name is None:
            raise QueryRefused.because("Must provide operation name if query contains multiple operations.")
        found = self.operations.get(name)
        if found is None:
            raise QueryRefused.because(f"Unknown operation named '{name}'.")
        return found


def read_document(text: str) -> Document:
    """Parse and check a text. Raises :class:`QueryRefused`."""
    return _read_kept(text) if len(text) <= _KEPT_TEXT else _read(text)


def present_variables(operation: OperationDefinitionNode, given: Mapping[str, Any]) -> dict[str, Any]:
    """The variables an operation declares, in the form the strict coercion takes.

    Others are ignored, and null counts as absent.
    """
    present = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        value = given.get(name)
        if value is not None:
            present[name] = _relaxed(value, type_from_ast(schema(), definition.type))
    return present


def coerce_variables(operation: OperationDefinitionNode, present: dict[str, Any]) -> VariableValues:
    """Raises :class:`QueryRefused`."""
    values = get_variable_values(schema(), operation.variable_definitions or (), present, max_errors=20)
    if isinstance(values, list):
        raise QueryRefused(values)
    return values


def _read(text: str) -> Document:
    if len(text) > MAX_TEXT:
        raise QueryRefused.because(f"The query is longer than {MAX_TEXT} characters.")
    try:
        ast = parse(text, max_lexical_tokens=MAX_TOKENS, allow_empty_selection_sets=False)
    except GraphQLError as error:
        raise QueryRefused([error]) from error
    _check_size(ast)
    ast = _with_types_of_use(ast)
    if errors := validate(schema(), ast, specified_rules, max_errors=20):
        raise QueryRefused(errors)
    operations = [node for node in ast.definitions if isinstance(node, OperationDefinitionNode)]
    if not operations:
        raise QueryRefused.because("Must provide an operation.")
    return Document(
        ast,
        {node.name.value if node.name else None: node for node in operations},
        {node.name.value: node for node in ast.definitions if isinstance(node, FragmentDefinitionNode)},
    )


_read_kept = lru_cache(maxsize=_KEPT)(_read)


# -- bounds --------------------------------------------------------------------------------------------------


def _check_size(ast: DocumentNode) -> None:
    """Refuse a document too large to be checked cheaply."""
    selections = fragments = 0
    for definition in ast.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            fragments += 1
        if not isinstance(definition, FragmentDefinitionNode | OperationDefinitionNode):
            continue
        if len(definition.selection_set.selections) > MAX_ROOT_FIELDS and isinstance(
            definition, OperationDefinitionNode
        ):
            raise QueryRefused.because(f"More than {MAX_ROOT_FIELDS} root fields.", definition)
        for node, depth in _selections(definition.selection_set, 1):
            selections += 1
            fragments += isinstance(node, FragmentSpreadNode)
            if depth > MAX_DEPTH:
                raise QueryRefused.because(f"More than {MAX_DEPTH} levels deep.", node)
    if selections > MAX_SELECTIONS:
        raise QueryRefused.because(f"More than {MAX_SELECTIONS} selections.")
    if fragments > MAX_FRAGMENTS:
        raise QueryRefused.because(f"More than {MAX_FRAGMENTS} fragments and uses of fragments.")


def _selections(selection_set: SelectionSetNode, depth: int) -> Iterator[tuple[Any, int]]:
    for node in selection_set.selections:
        yield node, depth
        inner = None if isinstance(node, FragmentSpreadNode) else getattr(node, "selection_set", None)
        if inner is not None:
            yield from _selections(inner, depth + isinstance(node, FieldNode))


# -- leniency ------------------------------------------------------------------------------------------------


class _UseSites(Visitor):
    """Notes the input type of the first place where each variable is used."""

    def __init__(self, type_info: TypeInfo) -> None:
        super().__init__()
        self.types: dict[str, GraphQLInputType] = {}
        self._type_info = type_info

    def enter_variable_definition(self, *_: Any) -> Any:
        return False

    def enter_variable(self, node: VariableNode, *_: Any) -> None:
        type_ = self._type_info.get_input_type()
        if type_ is not None:
            self.types.setdefault(node.name.value, type_)


class _Redeclare(Visitor):
    def __init__(self, built: GraphQLSchema, types: Mapping[str, GraphQLInputType]) -> None:
        super().__init__()
        self._schema = built
        self._types = types

    def enter_variable_definition(self, node: VariableDefinitionNode, *_: Any) -> Any:
        used = self._types.get(node.variable.name.value)
        declared = type_from_ast(self._schema, node.type)
        if used is None or (declared is not None and _acceptable(self._schema, declared, used)):
            return None
        return replace(node, type=parse_type(str(used)))


def _with_types_of_use(ast: DocumentNode) -> DocumentNode:
    """Variables declared with a type that does not fit get the type of the place they are used in.

    Clients in the field declare types under names that were renamed since, or ``String!`` for a UUID.
    """
    type_info = TypeInfo(schema())
    sites = _UseSites(type_info)
    visit(ast, TypeInfoVisitor(type_info, sites))
    if not sites.types:
        return ast
    changed: DocumentNode = visit(ast, _Redeclare(schema(), sites.types))
    return changed


def _acceptable(built: GraphQLSchema, declared: Any, used: Any) -> bool:
    """Leaves to the ordinary rules what they can judge: nullability and default values."""
    return is_type_sub_type_of(built, get_nullable_type(declared), get_nullable_type(used)) or (
        get_named_type(declared) is get_named_type(used)
    )


def _relaxed(value: Any, type_: Any) -> Any:
    """A variable's value in the form the strict coercion takes.

    Numbers may come as text and texts as numbers, and input objects may have fields of newer protocols.
    """
    if is_non_null_type(type_):
        return _relaxed(value, type_.of_type)
    if is_list_type(type_):
        return [_relaxed(item, type_.of_type) for item in value] if isinstance(value, list) else value
    if is_input_object_type(type_) and isinstance(value, dict):
        return {
            name: _relaxed(value[name], field.type)
            for name, field in type_.fields.items()
            if value.get(name) is not None
        }
    name = getattr(type_, "name", "")
    if name == "Int" and isinstance(value, str) and len(value) < 12 and value.lstrip("+-").isdecimal():
        return int(value)
    if name == "String" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value
