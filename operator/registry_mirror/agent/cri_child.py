"""``python -m registry_mirror.agent.cri_child SOCKET SECONDS health|busy|pull|has [IMAGE]``: asks, prints JSON, ends.

The messages are the few fields of k8s.io/cri-api v0.36 pkg/apis/runtime/v1/api.proto that are read here, by their
numbers. v1alpha2, which containerd 1.5 has, says the same under another name.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_STRING, _BOOL, _INT64, _MESSAGE = 9, 8, 3, 11  # descriptor.proto, FieldDescriptorProto.Type
_FIELDS: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "VersionRequest": {},
    "VersionResponse": {"runtime_name": (2, _STRING, False), "runtime_version": (3, _STRING, False)},
    "StatusRequest": {},
    "StatusResponse": {"status": (1, "RuntimeStatus", False)},
    "RuntimeStatus": {"conditions": (1, "RuntimeCondition", True)},
    "RuntimeCondition": {"type": (1, _STRING, False), "status": (2, _BOOL, False), "message": (4, _STRING, False)},
    "ListImagesRequest": {},
    "ListImagesResponse": {},
    "ListContainersRequest": {},
    "ListContainersResponse": {"containers": (1, "Container", True)},
    "Container": {"state": (6, _INT64, False), "created_at": (7, _INT64, False)},
    "PullImageRequest": {"image": (1, "ImageSpec", False)},
    "ImageSpec": {"image": (1, _STRING, False)},
    "PullImageResponse": {"image_ref": (1, _STRING, False)},
    "ImageStatusRequest": {"image": (1, "ImageSpec", False)},
    "ImageStatusResponse": {"image": (1, "Image", False)},
    "Image": {"id": (1, _STRING, False)},
}
_VERSIONS = ("v1", "v1alpha2")
_CREATED = 0
_YOUNG = 60 * 1_000_000_000
_MAX_ANSWER = 16 * 1024 * 1024  # what the kubelet takes (k8s.io/cri-client v0.36 pkg/utils.go, maxMsgSize)
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Client:
    """The CRI of one version on one channel."""

    def __init__(self, channel: grpc.Channel, version: str, until: float) -> None:
        """Take the channel, the API's version and the deadline (time.monotonic)."""
        self._channel = channel
        self._package = f"runtime.{version}"
        self._until = until
        self._types = _types(self._package)

    def call(self, service: str, method: str, **fields: Any) -> Any:
        """Ask, and give the answer's message. Raises grpc.RpcError."""
        stub = self._channel.unary_unary(
            f"/{self._package}.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self._types[f"{method}Response"].FromString,
        )
        return stub(self._types[f"{method}Request"](**fields), timeout=max(0.1, self._until - time.monotonic()))

    def image(self, name: str) -> Any:
        """Give an ImageSpec."""
        return self._types["ImageSpec"](image=name)


def _types(package: str) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                added.type, added.type_name = _MESSAGE, f".{package}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _FIELDS}


def _health(client: Client) -> dict[str, Any]:
    version = client.call("RuntimeService", "Version")
    conditions = {item.type: item for item in client.call("RuntimeService", "Status").status.conditions}
    ready = conditions.get("RuntimeReady")
    try:
        client.call("ImageService", "ListImages")
        images = True
    except grpc.RpcError:
        images = False
    health = {
        "name": version.runtime_name,
        "version": version.runtime_version,
        "ready": ready is not None and ready.status,
        "message": ready.message if ready is not None else "it does not say RuntimeReady",
        "images": images,
    }
    return {"health": health}


def _busy(client: Client) -> dict[str, Any]:
    now = time.time_ns()
    found = client.call("RuntimeService", "ListContainers").containers
    return {"busy": sum(item.state == _CREATED and 0 <= now - item.created_at < _YOUNG for item in found)}


def _pull(client: Client, image: str) -> dict[str, Any]:
    return {"image": client.call("ImageService", "PullImage", image=client.image(image)).image_ref}


def _has(client: Client, image: str) -> dict[str, Any]:
    return {"present": bool(client.call("ImageService", "ImageStatus", image=client.image(image)).image.id)}


_QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {"health": _health, "busy": _busy, "pull": _pull, "has": _has}


def ask(socket: str, seconds: float, question: str, *details: str) -> dict[str, Any]:
    """Ask in the newest version that the runtime has; gives what is printed. Never raises what a runtime can cause."""
    until = time.monotonic() + seconds
    options = [("grpc.max_receive_message_length", _MAX_ANSWER), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        for version in _VERSIONS:
            try:
                return _QUESTIONS[question](Client(channel, version, until), *details)
            except grpc.RpcError as error:
                code = error.code()
                if code is grpc.StatusCode.UNIMPLEMENTED and version != _VERSIONS[-1]:
                    continue
                if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return {"error": f"no answer within {seconds:g} s"}
                refused = code not in _NO_ANSWER
                return {"error": f"{code.name.lower()}: {error.details()}", "refused": refused}
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])))
