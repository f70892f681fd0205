"""Every command line in the documentation can be run: commands, options, kinds and manifests exist.

What the commands do is tested elsewhere; this finds the page that an option or a file was renamed under.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from registry_mirror.cli.main import command as root

from .markdown import ROOT, blocks, pages, spans
from .shell import commands, lines

PAGES = [page for page in pages() if page == ROOT / "README.md" or ROOT / "docs" in page.parents]
PLACEHOLDER = re.compile(r"<.*>|[A-Z][A-Z_-]*|\$.*|.*…|\.\.\.")
# Kinds of Kubernetes that the documentation names, as kubectl takes them.
KINDS = {
    *("node", "nodes", "pod", "pods", "secret", "secrets", "configmap", "configmaps", "cm", "namespace", "namespaces"),
    *("ns", "deployment", "deploy", "daemonset", "ds", "job", "cronjob", "lease", "leases", "event", "events", "crd"),
    *(
        "crds",
        "customresourcedefinition",
        "endpointslices",
        "deployments",
        "daemonsets",
        "jobs",
        "all",
        "service",
        "svc",
    ),
    *(
        "serviceaccount",
        "validatingadmissionpolicy",
        "validatingadmissionpolicies",
        "clusterrole",
        "clusterrolebinding",
    ),
    *("application", "applications", "kustomization", "kustomizations", "generic", "tls", "docker-registry", "ksp"),
    *("networkpolicy", "networkpolicies", "prometheusrule", "podmonitor"),
}
BY_KIND = {
    "get",
    "describe",
    "delete",
    "wait",
    "patch",
    "label",
    "annotate",
    "edit",
    "explain",
    "create",
    "scale",
    "taint",
}
OTHER_VERBS = {
    *("apply", "diff", "kustomize", "auth", "config", "version", "run", "debug", "exec", "logs", "rollout", "cordon"),
    *("uncordon", "drain", "completion", "plugin", "proxy", "top", "cp", "port-forward", "api-resources", "replace"),
    "cluster-info",
}
TAKE_A_VALUE = {
    *("-n", "--namespace", "-f", "--filename", "-k", "--kustomize", "-l", "--selector", "-o", "--output", "-p", "-c"),
    *("--patch", "--type", "--context", "--kubeconfig", "--container", "--for", "--timeout", "--image", "--as"),
    *("--field-selector", "--sort-by", "--tail", "--overrides", "--restart"),
}


@cache
def own_kinds() -> dict[str, Any]:
    """Schemas of our kinds by every name that kubectl takes."""
    found = {}
    for path in (ROOT / "crds").glob("*s.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        names, schema = spec["names"], spec["versions"][0]["schema"]["openAPIV3Schema"]
        full = f"{names['plural']}.{spec['group']}"
        for name in (names["plural"], names["singular"], full, *names["shortNames"], *names["categories"]):
            found[name] = schema
    return found


# ---- registry-mirror ---------------------------------------------------------------------------------------------


def wrong_with_ours(words: Sequence[str], *, whole: bool = True) -> str:
    """Say what is wrong with a command line of ours, without its program; empty if nothing is.

    One that is not ``whole`` is only mentioned, so what it needs may be missing.
    """
    if not words or words[0] in ("-h", "--help", "--version") or PLACEHOLDER.fullmatch(words[0]):
        return ""
    name, rest = words[0], [word for word in words[1:] if word not in ("…", "...")]
    whole = whole and len(rest) == len(words) - 1
    with click.Context(root, info_name="registry-mirror") as context:
        found = root.get_command(context, name)
        if found is None:
            return f"there is no command {name}"
        if {"-h", "--help"} & set(rest):
            return ""
        with click.Context(found, info_name=name, parent=context) as inner:
            return _wrong_with(found, inner, rest, whole=whole)


def _wrong_with(found: click.Command, context: click.Context, rest: list[str], *, whole: bool) -> str:
    try:
        values, more, _ = found.make_parser(context).parse_args(list(rest))
    except click.UsageError as error:
        missing = isinstance(error, click.BadOptionUsage) and not isinstance(error, click.NoSuchOption)
        return "" if missing and not whole else error.format_message()
    if more:
        return f"{more[0]} is one too many"
    for parameter in found.params:
        given = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(given, str):
            if given not in parameter.type.choices and not PLACEHOLDER.fullmatch(given):
                return f"{parameter.name} cannot be {given}"
        elif whole and parameter.required and not parameter.envvar and given in (None, [], ()):
            return f"{parameter.name} is missing"
    return ""


# ---- kubectl -----------------------------------------------------------------------------------------------------


def wrong_with_kubectl(words: Sequence[str]) -> str:
    """Say what is wrong with a command line of kubectl, without its program; empty if nothing is."""
    for before, path in zip(words, [*words[1:], ""], strict=True):
        named = before in ("-f", "-k", "--filename", "--kustomize")
        if named and re.match(r"(\./)?(manifests|examples|crds)\b", path) and not (ROOT / path).exists():
            return f"there is no {path}"
    verb, *plain = _plain(words) or [""]
    if verb not in BY_KIND | OTHER_VERBS:
        return f"kubectl has no {verb}"
    if verb == "rollout":
        plain = plain[1:]
    elif verb in ("logs", "exec"):
        plain = [word for word in plain[:1] if "/" in word]
    elif verb not in BY_KIND:
        return ""
    if verb == "explain":
        return _wrong_with_path(plain[0])
    kinds = [word.split("/")[0] for word in plain[0].split(",")] if plain else []
    unknown = [
        kind for kind in kinds if kind.lower() not in KINDS | set(own_kinds()) and not PLACEHOLDER.fullmatch(kind)
    ]
    return f"there is no kind {unknown[0]}" if unknown else ""


def _plain(words: Sequence[str]) -> list[str]:
    """The words that are neither options nor their values."""
    found, value = [], False
    for word in words:
        if value:
            value = False
        elif word.startswith("-") and word != "-":
            value = word in TAKE_A_VALUE
        else:
            found.append(word)
    return found


def _wrong_with_path(path: str) -> str:
    kind, *fields = path.split(".")
    schema = own_kinds().get(kind)
    if schema is None:
        return "" if kind in KINDS else f"there is no kind {kind}"
    for field in fields:
        schema = schema.get("items", schema).get("properties", {})
        if field not in schema:
            return f"there is no field {path}"
        schema = schema[field]
    return ""


# ---- the pages ---------------------------------------------------------------------------------------------------


def wrong_with(words: Sequence[str]) -> str:
    """Say what is wrong with a command, if it is one of those that are looked at."""
    program = Path(words[0]).name
    if program == "kubectl" and words[1:2] != ["registry-mirror"]:
        return wrong_with_kubectl(words[1:])
    if program == "kubectl":
        return wrong_with_ours(words[2:])
    return wrong_with_ours(words[1:]) if program == "registry-mirror" else ""


def problems(text: str) -> Iterator[str]:
    for language, body in blocks(text, "sh", "console", "bash", "shell"):
        for line in lines(language, body):
            for words in commands(line):
                if problem := wrong_with(words):
                    yield f"{line}: {problem}"
    for span in spans(text):
        if not span.startswith("registry-mirror "):
            continue
        for words in commands(span):
            if words[0] == "registry-mirror" and (problem := wrong_with_ours(words[1:], whole=False)):
                yield f"{span}: {problem}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_page_can_be_run(page: Path) -> None:
    assert list(problems(page.read_text())) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("registry-mirror frobnicate", "there is no command frobnicate"),
        ("sudo registry-mirror apply --local -f x --now", "No such option"),
        ("A=1 .venv/bin/registry-mirror render -f x --runtime docker", "runtime cannot be docker"),
        ("cat x | registry-mirror render -f - > y && echo", "runtime is missing"),
        ("kubectl registry-mirror status a b", "b is one too many"),
        ("kubectl get registrymirros", "there is no kind registrymirros"),
        ("kubectl -n x delete -k manifests/overlays/k4s", "there is no manifests/overlays/k4s"),
        ("kubectl explain registrymirror.spec.endpoint", "there is no field registrymirror.spec.endpoint"),
        ("kubectl rollout status daemonst/x", "there is no kind daemonst"),
        ("kubectl aply -f x", "kubectl has no aply"),
    ],
)
def test_what_cannot_be_run_is_found(line: str, problem: str) -> None:
    text = f"1. In a list:\n\n   ```sh\n   {line}    # why\n   ```\n"
    (found,) = problems(text)
    assert problem in found
