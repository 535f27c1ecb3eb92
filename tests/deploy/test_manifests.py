"""The files for Compose and Kubernetes: as their schemas want them, and safe by what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from tests.gateways import DEPLOY

from watchly_adapters.settings import read_settings

Members = dict[str, Any]

COMPOSE: Final = DEPLOY / "compose.yaml"
KUBERNETES: Final = DEPLOY / "kubernetes"
#: The oldest version of Kubernetes that is meant, and the newest that there is a schema for.
VERSIONS: Final = ("1.29", kubernetes_validate.latest_version().rpartition(".")[0])
SECRETS: Final = ("SECRET_KEY", "DATABASE_PASSWORD", "REPLICATION_PASSWORD", "NATS_PASSWORD")
OURS: Final = {"watchly", "migrate", "relay", "sweep"}


def filled(text: str, given: Mapping[str, str]) -> str:
    """A compose file with its variables filled in.

    Raises:
        KeyError: one that has no default is not given.
    """

    def value(found: re.Match[str]) -> str:
        name, operator, default = found["name"], found["operator"], found["default"]
        return given.get(name, default) if operator == ":-" else given[name]

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<default>[^}]*))?\}", value, text)


@pytest.fixture(scope="module")
def services() -> Mapping[str, Members]:
    text = filled(COMPOSE.read_text(), dict.fromkeys(SECRETS, "s" * 64))
    found: Mapping[str, Members] = yaml.safe_load(text)["services"]
    return found


def test_the_compose_file_is_as_its_schema_wants_it() -> None:
    text = filled(COMPOSE.read_text(), dict.fromkeys(SECRETS, "s" * 64))
    # Merged first: the schema knows of YAML's own, and the one that checks does not.
    names = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text))).service_names()
    assert {*OURS, "gateway", "keys", "primary", "replica", "valkey", "nats"} == set(names)
    wrong = yaml.safe_load(text)
    wrong["services"]["watchly"]["red_only"] = True
    with pytest.raises(ValueError, match="red_only"):
        PyCompose.from_yaml(yaml.safe_dump(wrong))


@pytest.mark.parametrize("missing", SECRETS)
def test_no_secret_has_a_default(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        filled(COMPOSE.read_text(), dict.fromkeys((name for name in SECRETS if name != missing), "s"))
    example = (DEPLOY / "compose.env.example").read_text().splitlines()
    assert f"{missing}=" in example


def test_only_the_gateway_can_be_reached_and_nothing_can_write_to_its_image(
    services: Mapping[str, Members],
) -> None:
    for name, service in services.items():
        assert ("ports" in service) == (name == "gateway"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_the_settings_of_the_compose_file_are_good_ones(services: Mapping[str, Members]) -> None:
    for name in OURS:
        settings = read_settings(services[name]["environment"])
        assert (settings.cache, settings.relay, settings.sweep_interval.seconds) == ("shared", False, 0)
        assert settings.read_database_url is not None
    # Who brings the keys needs none of that.
    assert services["keys"]["environment"] == {}


def test_the_gateway_meets_instances_only_where_they_believe_it(services: Mapping[str, Members]) -> None:
    (shared,) = set(services["gateway"]["networks"]) & set(services["watchly"]["networks"])
    networks = yaml.safe_load(COMPOSE.read_text())["networks"]
    (addresses,) = networks[shared]["ipam"]["config"]
    settings = read_settings(services["watchly"]["environment"])
    assert settings.trusted_proxies == (addresses["subnet"],)
    # A network that is internal publishes no port.
    assert any(not (networks[name] or {}).get("internal") for name in services["gateway"]["networks"])


def test_nobody_waits_for_a_replica(services: Mapping[str, Members]) -> None:
    # To copy a large primary takes longer than anybody would wait, and reads go to the primary meanwhile.
    assert not [name for name, service in services.items() if "replica" in service.get("depends_on", {})]


def manifests() -> Iterator[tuple[Path, Members]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                yield path, document


def pods() -> Iterator[tuple[str, Members]]:
    """What pods are made of, by the names of what makes them."""
    for _, manifest in manifests():
        if manifest["kind"] in {"Deployment", "Job"}:
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_as_their_schemas_want_them(version: str) -> None:
    checked = []
    for path, manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)
        checked.append((path.name, manifest["kind"]))
        wrong = {**manifest, "spek": {}}
        with pytest.raises(kubernetes_validate.ValidationError, match="spek"):
            kubernetes_validate.validate(wrong, version, strict=True)
    assert len(checked) == 13


def test_all_manifests_are_applied_but_the_secret_that_is_an_example() -> None:
    applied = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path, _ in manifests()}
    assert there - set(applied) == {"secret.example.yaml"}
    assert set(applied) < there
    (secret,) = (manifest for path, manifest in manifests() if path.name == "secret.example.yaml")
    assert set(secret["stringData"].values()) == {""}


def test_pods_may_do_nothing_that_they_need_not() -> None:
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert container["resources"]["limits"]["memory"], name


def test_instances_have_the_time_that_a_drain_takes() -> None:
    (settings,) = (manifest for path, manifest in manifests() if path.name == "settings.yaml")
    secrets = {"SECRET_KEY": "s" * 32, "DATABASE_URL": "postgresql://primary/watchly"}
    drain = read_settings({**settings["data"], **secrets}).drain_timeout
    pod = dict(pods())["watchly"]
    (pause,) = re.findall(r"sleep\((\d+)\)", str(pod["containers"][0]["lifecycle"]))
    assert pod["terminationGracePeriodSeconds"] >= int(pause) + drain.seconds + 10
