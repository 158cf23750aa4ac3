"""User-data: what is in it, how large it gets, and what cannot be slipped into it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from builder.bootstrap import Bootstrap, keys_folder, open_bootstrap
from builder.errors import BuildError
from builder.user_data import LIMIT, next_steps, providers, user_data
from model.site import Relay, Site
from model.tunnel import HOME_INTERFACE, Addresses

_KEY = "ssh-ed25519 " + "A" * 68 + " alice@desk"


def _site(*domains: str) -> Site:
    names = domains or ("example.com", "bücher.example")
    return Site.model_validate(
        {
            "version": 1,
            "domains": names,
            "users": [{"address": f"alice@{names[0]}"}],
            "disk": {"unlock": "none"},
            "relays": [{"address": "mx.example.com", "offline": "tempfail"}],
        }
    )


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    return open_bootstrap(tmp_path / "home.yaml", _site().relays[0])


def _written(text: str) -> dict[str, dict[str, str]]:
    return {file["path"]: file for file in yaml.safe_load(text)["write_files"]}


def test_it_is_yaml_and_holds_every_file_as_it_is(bootstrap: Bootstrap) -> None:
    text = user_data(_site(), bootstrap)
    assert text.startswith("#cloud-config\n")
    files = _written(text)
    repository = Path(__file__).resolve().parent.parent.parent
    for path in ("usr/local/sbin/darkpipe-setup", "etc/postfix/master.cf", "etc/sysctl.d/60-darkpipe.conf"):
        assert files[f"/{path}"]["content"] == (repository / "relay-cloudinit/files" / path).read_text()
    assert files["/etc/wireguard/home0.conf"]["permissions"] == "0600"


def test_the_relay_knows_every_domain_in_both_forms(bootstrap: Bootstrap) -> None:
    settings = _written(user_data(_site(), bootstrap))["/etc/postfix/main.cf"]["content"]
    assert "relay_domains = example.com xn--bcher-kva.example mx.example.com bücher.example\n" in settings


def test_the_only_secret_in_it_is_the_relays_key(bootstrap: Bootstrap) -> None:
    text = user_data(_site(), bootstrap)
    assert text.count(bootstrap.relay.private_key) == 1
    assert bootstrap.home.private_key not in text
    assert bootstrap.relay.private_key not in next_steps(_site(), text, providers()["generic"])
    assert bootstrap.relay.private_key not in repr(bootstrap)


def test_the_largest_that_people_have_fits(bootstrap: Bootstrap) -> None:
    many = [f"family-with-a-long-name-number-{number}.example" for number in range(40)]
    text = user_data(_site(*many), bootstrap, "sk-ssh-ed25519@openssh.com " + "A" * 700 + " alice@desk")
    assert len(text.encode()) <= LIMIT


def test_too_much_is_refused(bootstrap: Bootstrap) -> None:
    with pytest.raises(BuildError, match="octets") as error:
        user_data(_site(*(f"{'a' * 60}{number}.example" for number in range(100))), bootstrap)
    assert "fewer" in error.value.hint


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        _KEY + "\n" + _KEY,
        "ssh-ed25519 AAAA alice: desk\nruncmd:",
        "ssh-ed25519 AAAA # {{ 1 }}",
        'command="reboot" ssh-ed25519 AAAA',
        "hello",
    ],
)
def test_what_is_no_public_key_is_refused(bootstrap: Bootstrap, key: str) -> None:
    with pytest.raises(BuildError, match="SSH key"):
        user_data(_site(), bootstrap, key)


def test_ssh_is_on_with_a_key_only(bootstrap: Bootstrap) -> None:
    with_key, without = (yaml.safe_load(user_data(_site(), bootstrap, key)) for key in (_KEY + "\n", ""))
    assert with_key["ssh_authorized_keys"] == [_KEY]
    assert "ssh_authorized_keys" not in without
    assert with_key["runcmd"] == [["/usr/local/sbin/darkpipe-setup"]]
    assert without["runcmd"][0].startswith("systemctl disable --now ssh.service")
    assert with_key["ssh_pwauth"] is without["ssh_pwauth"] is False


def test_the_same_keys_every_time(tmp_path: Path) -> None:
    site, relay = tmp_path / "home.yaml", _site().relays[0]
    first = open_bootstrap(site, relay)
    assert open_bootstrap(site, relay) == first
    assert user_data(_site(), first) == user_data(_site(), open_bootstrap(site, relay))
    assert open_bootstrap(site, Relay.model_validate({"address": "192.0.2.1"})) != first
    folder = keys_folder(site)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_both_halves_belong_together(bootstrap: Bootstrap) -> None:
    assert bootstrap.home.addresses == bootstrap.relay.addresses
    keys = {bootstrap.home.private_key, bootstrap.home.relay_key, bootstrap.relay.private_key, bootstrap.relay.home_key}
    assert len(keys) == 4
    assert HOME_INTERFACE.startswith("relay")


def test_addresses_are_made_up_anew_for_each(tmp_path: Path) -> None:
    made = {open_bootstrap(tmp_path / f"{number}.yaml", _site().relays[0]).home.addresses for number in range(20)}
    assert len(made) == 20
    assert all(isinstance(one, Addresses) for one in made)


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "home.yaml"
    keys_folder(site).mkdir(mode=0o755)
    with pytest.raises(BuildError, match="found permissions 0755") as error:
        open_bootstrap(site, _site().relays[0])
    assert "chmod 0700" in error.value.hint


@pytest.mark.parametrize("content", ["", "{}", "null", '{"home": {"private_key": "c2VjcmV0"}}'])
def test_a_damaged_file_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    site, relay = tmp_path / "home.yaml", _site().relays[0]
    open_bootstrap(site, relay)
    path = keys_folder(site) / "mx.example.com.json"
    path.write_text(content)
    with pytest.raises(BuildError) as error:
        open_bootstrap(site, relay)
    assert str(path) in str(error.value)
    assert "c2VjcmV0" not in str(error.value)
    assert path.read_text() == content


@pytest.mark.parametrize("name", sorted(providers()))
def test_every_claim_about_a_provider_has_its_source(name: str, bootstrap: Bootstrap) -> None:
    site, provider = _site(), providers()[name]
    said = next_steps(site, user_data(site, bootstrap), provider)
    assert provider.name in said
    assert "PTR" in said
    assert "mx.example.com" in said
    for claim in provider.claims:
        assert claim.source in said
        assert str(claim.seen) in said
