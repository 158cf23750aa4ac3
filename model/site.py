"""Site: all that one installation is told by its owner, the content of `site.yaml`.

The descriptions and examples here are the texts of the JSON Schema and of the error messages.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from model import names, s3_setting
from model.checks import cross_checks
from model.duration import duration
from model.passwords import GENERATE, HASH_PATTERN, PROMPT, password_setting
from model.quota import quota
from model.s3 import Mode
from model.webhook import webhook

_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


Domain = Annotated[
    str,
    AfterValidator(names.domain_name),
    WithJsonSchema({"type": "string", "format": "idn-hostname"}),
]
Address = Annotated[
    str,
    AfterValidator(names.mail_address),
    WithJsonSchema({"type": "string", "format": "idn-email"}),
]
Host = Annotated[
    str,
    AfterValidator(names.host),
    WithJsonSchema({"type": "string"}),
]
Password = Annotated[
    str,
    AfterValidator(password_setting),
    WithJsonSchema({"type": "string", "pattern": f"^({PROMPT}|{GENERATE}|{HASH_PATTERN})$"}),
]
Quota = Annotated[
    str,
    AfterValidator(quota),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,5} ?[MGTmgt](i?[Bb])?$"}),
]
Duration = Annotated[
    str,
    AfterValidator(duration),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,3} ?[HDhd]$"}),
]
Webhook = Annotated[
    str,
    AfterValidator(webhook),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https://"}),
]
OutsideAddress = Annotated[
    str,
    AfterValidator(names.target_address),
    WithJsonSchema({"type": "string", "format": "idn-email"}),
]


Endpoint = Annotated[
    str,
    AfterValidator(s3_setting.endpoint),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https://"}),
]
Bucket = Annotated[str, AfterValidator(s3_setting.bucket), WithJsonSchema({"type": "string"})]
Region = Annotated[str, AfterValidator(s3_setting.region), WithJsonSchema({"type": "string"})]
AccessKey = Annotated[str, AfterValidator(s3_setting.access_key), WithJsonSchema({"type": "string"})]
SecretKey = Annotated[str, AfterValidator(s3_setting.secret_key), WithJsonSchema({"type": "string", "const": PROMPT})]
Prefix = Annotated[str, AfterValidator(s3_setting.prefix), WithJsonSchema({"type": "string"})]


class MailServer(StrEnum):
    """The programs that take, keep and show mail."""

    POSTFIX_DOVECOT = "postfix-dovecot"
    STALWART = "stalwart"
    MADDY = "maddy"


class Rotation(StrEnum):
    """How long the keys of the tunnel are used."""

    DAYS_30 = "30d"
    DAYS_60 = "60d"
    DAYS_90 = "90d"

    @property
    def seconds(self) -> int:
        """The same in seconds."""
        return int(self.removesuffix("d")) * 24 * 3600


class OfflinePolicy(StrEnum):
    """What the relay does with a message while home is away."""

    QUEUE = "queue"
    TEMPFAIL = "tempfail"
    REJECT = "reject"


class Transport(StrEnum):
    """How home and relay reach each other."""

    WIREGUARD = "wireguard"
    MTLS = "mtls"


class UnlockPolicy(StrEnum):
    """How the data disk is unlocked after each start."""

    NONE = "none"
    PASSPHRASE = "passphrase"
    TPM2 = "tpm2"
    USB_KEY = "usb-key"
    RELAY = "relay"


class DataDisk(StrEnum):
    """Which disk of the device holds the mail."""

    SYSTEM = "system"
    USB = "usb"


class _Strict(BaseModel):
    # Pydantic would quote the input in its errors, and with it a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Alarm(_Strict):
    """How the relay tells you that your device is away: the device itself cannot, and mail to it waits on the relay."""

    after: Duration = Field(
        "24h",
        description="How long the device is away before the relay tells you.",
        examples=["24h"],
    )
    webhook: Webhook | None = Field(
        None,
        repr=False,
        description="A web service that gets the message as JSON (POST).",
        examples=["https://ntfy.example/your-topic"],
    )
    mail: OutsideAddress | None = Field(
        None,
        description="A mail address that the relay writes to, at another provider: mail to your own waits.",
        examples=["alice@example.net"],
    )


class S3(_Strict):
    """A bucket of any S3-compatible store, where mail waits that the relay's disk has no room for, or all of it."""

    endpoint: Endpoint = Field(
        description="Address of the store, without the bucket.",
        examples=["https://s3.eu-central-1.example.net"],
    )
    bucket: Bucket = Field(
        description="Name of the bucket, which is there already.",
        examples=["my-mail"],
    )
    access_key: AccessKey = Field(
        description="Id of an access key that may read, write, list and delete in the bucket.",
        examples=["AKIAEXAMPLE"],
    )
    secret_key: SecretKey = Field(
        PROMPT,
        repr=False,
        description="`prompt`: the secret key is never in this file; the device asks for it (`darkpipe relay s3-key`).",
        examples=[PROMPT],
    )
    mode: Mode = Field(
        Mode.OVERFLOW,
        description="`overflow`: what the relay's disk has no room for. `write-through`: everything, besides the disk, "
        "so that mail outlives the relay.",
        examples=["write-through"],
    )
    region: Region = Field(
        "us-east-1",
        description="Region of the bucket, where the store has several.",
        examples=["eu-central-1"],
    )
    prefix: Prefix = Field(
        "",
        description="What the names of all objects begin with. Default: nothing.",
        examples=["relay/"],
    )
    budget: Quota = Field(
        "20G",
        description="How much mail may wait in the bucket.",
        examples=["20G"],
    )


class Relay(_Strict):
    """A server on the Internet that the world connects to; it passes connections on to the device at home."""

    address: Host = Field(
        description="Name or IP address of the relay.",
        examples=["mx.example.com"],
    )
    offline: OfflinePolicy = Field(
        OfflinePolicy.QUEUE,
        description="What the relay does with a message while home is away. `queue`: takes it and keeps it encrypted "
        "to home's key. `tempfail`: asks the sender's server to try again, and stores nothing. `reject`: refuses it.",
        examples=["tempfail"],
    )
    transport: Transport = Field(
        Transport.WIREGUARD,
        description="How your device reaches the relay. `wireguard`: over UDP. `mtls`: OpenVPN over TCP, for networks "
        "that block UDP; slower, and known for what it is to whoever looks at the packets. Changing it takes a "
        "new relay from new user-data, and `darkpipe relay replace` on the device.",
        examples=["wireguard"],
    )
    rotation: Rotation = Field(
        Rotation.DAYS_90,
        description="After how many days device and relay change to new keys, by themselves: `30d`, `60d` or `90d`.",
        examples=["90d"],
    )
    budget: Quota = Field(
        "4G",
        description="With `queue`: how much mail may wait on the relay's disk. What comes beyond, its sender keeps.",
        examples=["4G"],
    )
    expiry: Duration = Field(
        "7d",
        description="With `queue`: how long a message waits until the relay gives it up and tells its sender so.",
        examples=["7d"],
    )
    alarm: Alarm | None = Field(
        None,
        description="How the relay tells you that your device is away. Default: not at all.",
        examples=[{"mail": "alice@example.net"}],
    )
    s3: S3 | None = Field(
        None,
        description="With `queue`: a bucket for mail that the relay's disk has no room for, or for all of it. "
        "Default: none.",
        examples=[{"endpoint": "https://s3.example.net", "bucket": "my-mail", "access_key": "AKIAEXAMPLE"}],
    )


class Disk(_Strict):
    """The disk that holds the mail."""

    unlock: UnlockPolicy = Field(
        description="How the data disk is unlocked after each start. `none`: the disk is not encrypted, and who takes "
        "it reads the mail. `passphrase`: somebody types it. `tpm2`: by this very machine, a PC with a TPM 2.0, as "
        "long as it is started as before; else by a passphrase. `usb-key`: by a key on a USB stick, or, without the "
        "stick, by a passphrase. "
        "`relay`: with the help of the relay once the two have paired, for as long as you have not cut the device off; "
        "or, without the relay, by a passphrase. "
        "Counts at the first start only; after that, `darkpipe disk change-policy` changes it. "
        "There is no default: mail on a disk that is not encrypted must be your own decision.",
        # What an error text has people write: who follows it without a thought gets a disk that a thief cannot read.
        examples=["passphrase"],
    )
    data: DataDisk = Field(
        DataDisk.SYSTEM,
        description="Where the mail lies. `system`: on the disk or card that the device starts from. `usb`: on a USB "
        "disk, which the first start takes over when it is empty and the only empty one; the device waits for it, and "
        "touches no disk with anything on it. Counts at the first start only. A disk that already holds a device's "
        "mail (labelled darkpipe-data) is used in both cases.",
        examples=["usb"],
    )


class User(_Strict):
    """A person with a mailbox."""

    address: Address = Field(
        description="Address of the mailbox, also the name for logging in. Mail to `alice+anything@…` arrives as well.",
        examples=["alice@example.com"],
    )
    aliases: tuple[Address, ...] = Field(
        (),
        description="More addresses whose mail arrives in this mailbox.",
        examples=[["postmaster@example.com"]],
    )
    catch_all: tuple[Domain, ...] = Field(
        (),
        description="Domains of which this mailbox also gets all mail to addresses that nobody has.",
        examples=[["example.com"]],
    )
    quota: Quota | None = Field(
        None,
        description="The most that the mailbox may hold, such as 5G or 500M. Default: no limit.",
        examples=["5G"],
    )
    password: Password = Field(
        GENERATE,
        repr=False,
        description="The first password. `prompt`: asked for while the image is built. `generate`: made by the device "
        "and shown once on its console. Or an argon2id hash. Never the password itself.",
        examples=[PROMPT, GENERATE],
    )


def _first_user(fields: dict[str, Any]) -> str:
    users: tuple[User, ...] = fields.get("users", ())
    return users[0].address if users else ""


class Site(_Strict):
    """One installation of DarkPipe: its domains, its people, and how it runs."""

    version: Literal[1] = Field(
        description="Version of this format.",
        examples=[1],
    )
    domains: tuple[Domain, ...] = Field(
        min_length=1,
        description="Your mail domains. The first is the primary: mail.example.com and mx.example.com follow from it.",
        examples=[["example.com"]],
    )
    users: tuple[User, ...] = Field(
        min_length=1,
        description="The people who have a mailbox. At the first start they become accounts; from then on the "
        "device's own list of accounts rules.",
        examples=[[{"address": "alice@example.com", "aliases": ["postmaster@example.com"], "password": PROMPT}]],
    )
    admin: Address = Field(
        default_factory=_first_user,
        description="Who gets reports, and mail to postmaster: an address of one of the users. Default: the first one.",
        examples=["alice@example.com"],
    )
    mail_server: MailServer = Field(
        MailServer.POSTFIX_DOVECOT,
        description="Which programs take, keep and show mail.",
        examples=["postfix-dovecot"],
    )
    relays: tuple[Relay, ...] = Field(
        (),
        description="Servers on the Internet that the world connects to. Without one, mail to others waits at home.",
        examples=[[{"address": "mx.example.com", "offline": "queue"}]],
    )
    disk: Disk = Field(
        description="The disk that holds the mail. There is no default: mail on a disk that is not encrypted must be "
        "your own decision.",
        examples=[{"unlock": "passphrase"}],
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        findings = [f"{finding.found}; {finding.remedy}" for finding in cross_checks(self.model_dump())]
        if findings:
            raise ValueError("\n".join(findings))
        return self


def site_schema() -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of `site.yaml`, for editors and other programs."""
    schema = Site.model_json_schema()
    return {"$schema": _SCHEMA_DIALECT, **schema, "title": "DarkPipe site.yaml"}
