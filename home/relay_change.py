"""Other settings for the relay that a device has: from the site file on the owner's computer into the one kept here."""

from __future__ import annotations

from pydantic import ValidationError

from home.configure import known_accounts
from home.room import megabytes
from home.store import Store, StoreError
from model.document import check_values, dump_site, read_site
from model.mtls import AnyHome, MtlsHome, read_home_end
from model.problems import Kind, Refusal
from model.s3 import Mode
from model.site import S3, Relay, Site, Transport
from stack.durable import write_atomically


def change_relay(store: Store, given: Site, in_bucket: int | None = 0) -> tuple[str, ...]:
    """Let the device's site have the relay's settings of another one; `darkpipe-pair` brings them to the relay.

    Args:
        given: the owner's site. What it says besides `relays` is not looked at: accounts and disk have commands.
        in_bucket: octets of the mail that the relay has in the bucket; None when nobody knows now.

    Returns:
        The keys whose values are others now; empty when nothing has changed.

    Raises:
        Refusal: one of the two has no relay, it would be another relay, or mail would be left in a bucket.
        SiteError, StoreError, OSError: a file cannot be used; nothing has changed.
    """
    with store.locked():
        kept = kept_site(store)
        before = _relay(kept, "this device's site", "give it a relay on the device's page")
        named = _relay(given, "the site file", "give the one that names the relay")
        after = Relay.model_validate(named.model_dump(mode="json"))  # defaults in the form in which they are kept
        _require_same(store, before, after)
        _leave_nothing(before.s3, after.s3, in_bucket)
        changed = tuple(key for key in Relay.model_fields if getattr(before, key) != getattr(after, key))
        if changed:
            data = kept.model_dump(mode="json") | {"relays": [after.model_dump(mode="json")]}
            for finding in check_values(data):
                raise Refusal(finding.kind, finding.found, finding.expected, finding.remedy)
            write_atomically(store.site, dump_site(Site.model_validate(data)).encode(), 0o600)
        return changed


def kept_site(store: Store) -> Site:
    """Read the site of a device that was set up; its relay may have been replaced since by one of another transport.

    Raises:
        Refusal: it was not.
        SiteError, StoreError, OSError: a file cannot be used.
    """
    known_accounts(store)
    site, home = read_site(store.site), _home(store)
    if not home or not site.relays:
        return site
    transport = Transport.MTLS if isinstance(home, MtlsHome) else Transport.WIREGUARD
    return site.model_copy(update={"relays": (site.relays[0].model_copy(update={"transport": transport}),)})


def _relay(site: Site, whose: str, remedy: str) -> Relay:
    if not site.relays:
        raise Refusal(Kind.NOT_SET_UP, f"{whose} without a relay", "one that names a relay", remedy)
    return site.relays[0]


def _home(store: Store) -> AnyHome | None:
    try:
        return read_home_end(store.tunnel.read_bytes()) if store.tunnel.exists() else None
    except ValidationError:
        raise StoreError(f"{store.tunnel} is damaged, and with it the keys of the relay") from None


def _leave_nothing(before: S3 | None, after: S3 | None, octets: int | None) -> None:
    """Refuse another bucket while mail is in the one of before and nowhere else: the relay would not find it there."""
    if before is None or before.mode is not Mode.OVERFLOW or octets == 0:
        return
    place = ("endpoint", "bucket", "prefix")
    if after is not None and all(getattr(before, key) == getattr(after, key) for key in place):
        return
    if octets is None:
        raise Refusal(
            Kind.IN_USE,
            f"a relay that is not heard now: mail may lie in its bucket `{before.bucket}`, where it would not look",
            "a relay that says what is there, or the same `endpoint`, `bucket` and `prefix`",
            "give this command again when home hears it: `darkpipe relay status` shows that",
        )
    raise Refusal(
        Kind.IN_USE,
        f"{megabytes(octets)} of mail in the bucket `{before.bucket}`, where the relay would not look any more",
        "an empty bucket, or the same `endpoint`, `bucket` and `prefix`",
        "let home fetch it first: `darkpipe relay status` shows how that goes",
    )


def _require_same(store: Store, before: Relay, after: Relay) -> None:
    """Refuse another relay."""
    home = _home(store)
    addresses = {before.address, home.relay} if home else {before.address}
    remedy = "for another relay make other keys (`./darkpipe user-data --renew`, then `darkpipe relay replace`)"
    if after.address not in addresses:
        expected = " or ".join(sorted(addresses))
        raise Refusal(Kind.IN_USE, f"`address: {after.address}`", f"`{expected}`, the relay that home has", remedy)
    if after.transport is not before.transport:
        expected = f"`transport: {before.transport}`, for which the relay was made"
        raise Refusal(Kind.IN_USE, f"`transport: {after.transport}`", expected, remedy)
