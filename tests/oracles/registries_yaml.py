"""registries.yaml as PyYAML reads it, in the shape in which wharfie gives it back."""

from __future__ import annotations

from typing import Any

import yaml

_AUTH = {"username": "username", "password": "password", "auth": "auth", "identity_token": "identitytoken"}
_TLS = {"ca_file": "", "cert_file": "", "key_file": "", "insecure_skip_verify": False}


def as_wharfie_reads(text: str) -> dict[str, Any]:
    document = yaml.safe_load(text) or {}
    mirrors, configs = document.get("mirrors"), document.get("configs")
    return {
        "mirrors": mirrors and {name: _mirror(entry or {}) for name, entry in mirrors.items()},
        "configs": configs and {host: _config(entry or {}) for host, entry in configs.items()},
        "auths": None,
    }


def _mirror(entry: dict[str, Any]) -> dict[str, Any]:
    return {"endpoint": entry.get("endpoint"), "rewrite": entry.get("rewrite")}


def _config(entry: dict[str, Any]) -> dict[str, Any]:
    auth, tls = entry.get("auth"), entry.get("tls")
    return {
        "auth": auth and {name: auth.get(key, "") for key, name in _AUTH.items()},
        "tls": tls and {key: tls.get(key, default) for key, default in _TLS.items()},
    }
