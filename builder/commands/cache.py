"""`./darkpipe cache`: what the cache holds, and making it smaller."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from builder.cache import Cache, Entry
from builder.commands.elsewhere import run_elsewhere
from builder.eviction import DEFAULT_LIMIT, SIZE_VARIABLE, limit_from_environment, parse_size, shrink
from builder.sandbox import remove_tree

_JSON_HELP = "Print JSON on standard output."


@click.group()
def cache() -> None:
    """Show and shrink the cache of finished stages.

    It lies in $DARKPIPE_CACHE, else in ~/.cache/darkpipe; where builds run in a container, in its volume. After each
    build the least recently used entries go until the rest fits into $DARKPIPE_CACHE_SIZE (6G when unset: one site with
    its tools takes about 2 GB, and each change about 1 GB). What a running build uses never goes.

    \b
    Examples:
      ./darkpipe cache list
      ./darkpipe cache prune --size 3G
      DARKPIPE_CACHE_SIZE=40G ./darkpipe build my-site.yaml
    """


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def list_entries(as_json: bool) -> None:
    """List the entries, the least recently used first: that is the order in which they go.

    \b
    Examples:
      ./darkpipe cache list
      ./darkpipe cache list --json | jq '.entries[] | select(.kind == "packages")'
    """
    run_elsewhere(json=as_json)
    store = Cache.default()
    entries = store.entries()
    if as_json:
        rows = [_as_data(entry) | {"in_use": store.in_use(entry)} for entry in entries]
        total = sum(entry.size for entry in entries)
        data = {"folder": str(store.root), "bytes": total, "limit": limit_from_environment(), "entries": rows}
        click.echo(json.dumps(data, indent=1))
        return
    for entry in entries:
        mark = "  in use" if store.in_use(entry) else ""
        click.echo(f"{_line(entry)}  used {_ago(entry.used)}{mark}")
    click.echo(f"{_sum(entries)} in {store.root}; the limit is {_size(limit_from_environment())} ({SIZE_VARIABLE}).")


@cache.command("prune")
@click.option("--size", metavar="SIZE", help=f"What may stay; {SIZE_VARIABLE} or {DEFAULT_LIMIT // 10**9}G by default.")
@click.option("--all", "everything", is_flag=True, help="Remove all that no running build uses.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, show what would go.")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def prune(size: str | None, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove the least recently used entries until the others fit into a size.

    What a running build uses stays. Workspaces that killed builds have left go as well.

    \b
    Examples:
      ./darkpipe cache prune
      ./darkpipe cache prune --size 3G --dry-run
      ./darkpipe cache prune --all
    """
    if everything and size is not None:
        raise click.UsageError("--all and --size exclude each other")
    run_elsewhere(size=size, all=everything, dry_run=dry_run, json=as_json)
    limit = limit_from_environment() if size is None else parse_size(size, "--size")
    store = Cache(Cache.default().root, remove_tree)
    with store.workspace():  # sweeps
        gone = shrink(store, 0 if everything else limit, dry_run=dry_run)
    if as_json:
        data = {"bytes": sum(entry.size for entry in gone), "dry_run": dry_run, "removed": [_as_data(e) for e in gone]}
        click.echo(json.dumps(data, indent=1))
        return
    for entry in gone:
        click.echo(_line(entry))
    click.echo(f"{_sum(gone)} {'would be removed' if dry_run else 'removed'}; {_sum(store.entries())} in {store.root}.")


def _as_data(entry: Entry) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "id": entry.identifier,
        "name": entry.name,
        "bytes": entry.size,
        "made": _iso(entry.made),
        "used": _iso(entry.used),
        "folder": str(entry.folder),
    }


def _line(entry: Entry) -> str:
    return f"{entry.kind:9} {entry.identifier[:12]}  {_size(entry.size):>9}  {entry.name}"


def _sum(entries: Sequence[Entry]) -> str:
    count = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    return f"{count}, {_size(sum(entry.size for entry in entries))}"


def _size(number: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1000:.0f} kB"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def _ago(seconds: float) -> str:
    passed = max(0.0, time.time() - seconds)
    for unit, factor in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if passed >= 2 * factor:
            return f"{passed / factor:.0f} {unit} ago"
    return "just now"
