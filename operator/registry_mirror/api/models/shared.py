"""What the kinds have in common: the two bases, metadata, selectors, and types of fields."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ..conditions import Condition

GROUP = "registrymirror.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Key = Annotated[str, Meta(min_length=1, max_length=253)]
Url = Annotated[str, Meta(min_length=1, max_length=1024)]
Duration = Annotated[str, Meta(min_length=1, max_length=32)]
Label = Annotated[str, Meta(max_length=317)]
Count = Annotated[int, Meta(ge=0)]
HostPath = Annotated[str, Meta(max_length=1024)]
Text = Annotated[str, Meta(max_length=1024)]
Conditions = Annotated[tuple[Condition, ...], Meta(max_length=16)]


class Spec(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Base of what users write: unknown fields are an error."""


class Status(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of what the program writes: unknown fields are tolerated."""


class OwnerReference(Status, frozen=True, kw_only=True):
    """The part of metav1.OwnerReference that is read here."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Metadata(Status, frozen=True, kw_only=True):
    """The part of metav1.ObjectMeta that is read here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


class LabelSelectorRequirement(Spec, frozen=True, kw_only=True):
    """metav1.LabelSelectorRequirement."""

    key: Label
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[tuple[Annotated[str, Meta(max_length=63)], ...], Meta(max_length=64)] = ()


class LabelSelector(Spec, frozen=True, kw_only=True):
    """metav1.LabelSelector: all of it must match; an empty one matches every node."""

    match_labels: Annotated[dict[str, Annotated[str, Meta(max_length=63)]], Meta(max_length=64)] = field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], Meta(max_length=16)] = ()
