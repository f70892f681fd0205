"""k0s since 1.27.1: containerd's hosts.toml, and the drop-in that tells containerd where they are.

k0s watches its drop-ins and restarts containerd by itself when one comes or goes (k0s docs/runtime.md; component.go,
watchDropinConfigs): once when the first mirror of a node comes, once when the last one goes, and never in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...api.models import RuntimeFacts
from .. import versions
from ..bundle import File, MirrorProblem, Rendered
from ..layout import K0S_DROP_IN, K0S_DROP_INS, layout
from ..resolve import ResolvedMirror
from . import containerd, quoting

# Where containerd has the registry settings, by the schema of its configuration.
_PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give TLS files, hosts.toml files and, last, the drop-in that has them read.

    No drop-in where another one sets config_path already; the agent reports that directory then.
    """
    problem = _unsupported(facts)
    if problem is not None:
        reason, text = problem
        return Rendered((), {}, tuple(MirrorProblem(item.name, reason, text) for item in mirrors))
    rendered = containerd.render(facts, mirrors)
    if not rendered.files or facts.config_path:
        return rendered
    return Rendered((*rendered.files, _drop_in(facts)), rendered.start_settings, rendered.problems)


def _unsupported(facts: RuntimeFacts) -> tuple[str, str] | None:
    if versions.known_below(facts.version, 1, 27, 1):
        return "RuntimeTooOld", f"k0s {facts.version} reads no drop-ins for containerd: 1.27.1 is the first that does"
    if not facts.config_managed and not facts.config_path:
        text = (
            f"{facts.config_file} does not begin with the line # k0s_managed=true, so k0s ignores {K0S_DROP_INS}: "
            "move the file away and restart k0s, which then writes its own"
        )
        return "ConfigNotManaged", text
    return None


def _drop_in(facts: RuntimeFacts) -> File:
    schema = _schema(facts)
    expected = {
        "version": schema,
        "plugins": {_PLUGINS[schema]: {"registry": {"config_path": layout(facts).certs}}},
    }
    values = {"comment": containerd.COMMENT, "schema": schema, "plugin": _PLUGINS[schema], "path": layout(facts).certs}
    return File(path=K0S_DROP_IN, content=quoting.toml_file("k0s-containerd.toml.j2", expected, **values))


def _schema(facts: RuntimeFacts) -> int:
    """k0s 1.36 refuses to start with a drop-in of schema 2, earlier ones ignore the plugin of schema 3.

    What k0s wrote at its last start decides (configSchema); where there is nothing yet, its version.
    """
    if facts.config_schema in _PLUGINS:
        return facts.config_schema
    return 2 if versions.known_below(facts.version, 1, 36) else 3
