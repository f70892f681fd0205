"""``registry-mirror seed``: fill a private registry with images, and see that nodes find them there."""

from __future__ import annotations

import sys
from typing import Any

import click

from .local import seconds, show
from .options import cluster_options, output_option, with_options
from .screen import safe

EXIT_CODES = (
    "Exit codes: 0 all images are there, 1 an image could not be copied or the work failed, 2 the command line is "
    "wrong, 4 images were copied, and nodes do not get them."
)
_FILE = click.Path(dir_okay=False)
_INPUT = click.Path(allow_dash=True)
_SOURCES = (
    click.option(
        "--from-file",
        "lists",
        multiple=True,
        type=_INPUT,
        metavar="LIST",
        help="A list of images, one a line, such as k3s-images.txt; - for standard input. May be repeated.",
    ),
    click.option("--from-cluster", is_flag=True, help="The images of all Pods and workloads of the cluster."),
    click.option(
        "--from-manifest",
        "manifests",
        multiple=True,
        type=_INPUT,
        metavar="FILE",
        help="The images of Kubernetes objects in YAML; - for standard input. Of a chart: helm template … | "
        "registry-mirror seed --from-manifest - …. May be repeated.",
    ),
)
_PLACES = (
    click.option("--to", metavar="REGISTRY[/PREFIX]", default="", help="The registry to fill, without https://."),
    click.option(
        "--archive",
        type=_FILE,
        metavar="FILE.tar",
        help="Without --to, write the images to this file; with --to, fill the registry from it.",
    ),
    click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        type=_INPUT,
        metavar="FILE",
        help="RegistryMirrors, with their Secrets and ConfigMaps: images go where nodes look for them by these. May be "
        "repeated.",
    ),
    click.option("--mirrors-from-cluster", is_flag=True, help="The same with the RegistryMirrors of the cluster."),
)
_WORK = (
    click.option(
        "--platform",
        "platforms",
        multiple=True,
        metavar="OS/ARCH",
        help="Copy this platform only, such as linux/arm64; without it, all. The index of an image is another one "
        "then, with another digest: Pods that name the digest of the whole do not find it. May be repeated.",
    ),
    click.option("-j", "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Images at once."),
    click.option(
        "--timeout",
        default="1h",
        show_default=True,
        metavar="DURATION",
        callback=seconds,
        help="How long one image may take.",
    ),
    click.option("--dry-run", is_flag=True, help="Print what would be copied where, and what is there; copy nothing."),
)


def _side(name: str, what: str) -> tuple[Any, ...]:
    return (
        click.option(
            f"--{name}-authfile",
            type=click.Path(dir_okay=False, exists=True),
            metavar="FILE",
            help=f"Credentials for {what}, as docker's config.json has them; without it, the usual places.",
        ),
        click.option(
            f"--{name}-ca",
            type=click.Path(dir_okay=False, exists=True),
            metavar="FILE",
            help=f"The CA of {what}, in PEM.",
        ),
        click.option(f"--{name}-plain-http", is_flag=True, help=f"Also speak HTTP to {what}."),
        click.option(f"--{name}-insecure-skip-verify", is_flag=True, help=f"Verify no certificate of {what}."),
    )


@click.command("seed", epilog=EXIT_CODES)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@with_options(*_SOURCES, *_PLACES, *_WORK, *_side("from", "the sources"), *_side("to", "the registry to fill"))
@output_option()
@with_options(*cluster_options)
def command(**given: Any) -> None:
    """Fill a private registry with images by skopeo, which has to be installed, and see that nodes find them there.

    A tag is resolved once, and copied by digest with all its platforms. What is there already is left alone: a run that
    was ended goes on when it is started again. Credentials come from where docker and podman keep them, or from the
    Secret of the endpoint.

    \b
    Examples:
      registry-mirror seed --from-file k3s-images.txt --to registry.example.com/k3s --dry-run
      registry-mirror seed --from-cluster --mirrors-from-cluster --to registry.example.com
      registry-mirror seed --from-file k3s-images.txt --archive images.tar
      registry-mirror seed --archive images.tar --to registry.example.com -f mirrors.yaml
    """
    from .seed_options import Options
    from .seed_run import run
    from .seed_view import planned, summary

    options = Options(**given)
    _check(options)
    report = run(options)
    show(report, list((planned if options.dry_run else summary)(report)), options.output)
    for note in report.notes:
        click.echo(f"note: {safe(note)}", err=True)
    sys.exit(1 if report.failed else 4 if report.unresolved else 0)


def _check(options: Any) -> None:
    """Say which options do not belong together. Raises UsageError."""
    sources = options.images or options.lists or options.manifests or options.from_cluster
    reading = options.archive and options.to
    mirrors = options.files or options.mirrors_from_cluster
    problems = {
        "name where to: --to REGISTRY, or --archive FILE.tar": not (options.to or options.archive),
        "name the images: IMAGE, --from-file, --from-cluster or --from-manifest": not sources and not reading,
        "--platform: choose platforms when the archive is written": options.platforms and reading,
        "-f and --mirrors-from-cluster say where images go in a registry: add --to": mirrors and not options.to,
        "give -f or --mirrors-from-cluster, not both": options.files and options.mirrors_from_cluster,
        "standard input can be read once": [*options.lists, *options.manifests, *options.files].count("-") > 1,
    }
    for problem, found in problems.items():
        if found:
            raise click.UsageError(problem)
    for platform in options.platforms:
        if not 2 <= len([part for part in platform.split("/") if part]) <= 3:
            raise click.BadParameter(f"{platform!r}: write OS/ARCH, such as linux/arm64", param_hint="--platform")
