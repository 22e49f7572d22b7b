"""`compose.yaml` and `kuberay.yaml`: of their schemas, without secrets, no more open than need be."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import typer.main

from search.cli import app
from search.service.serve import OWN_NAMES
from search.settings import Settings
from tests.docker.files import FOLDER, ROOT, compose, instructions, manifests, ray_commands, schema

KINDS = {
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "RayCluster": "io.ray.v1.RayCluster",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "Service": "io.k8s.api.core.v1.Service",
}
COMPOSE = (FOLDER / "compose.yaml").read_text()


def faults(instance: Any, by: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft7Validator(by)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(instance)]


def of_kubernetes(kind: str) -> dict[str, Any]:
    return {**schema("kubernetes.json"), "$ref": f"#/definitions/{KINDS[kind]}"}


def pods() -> Iterator[dict[str, Any]]:
    """The specifications of all pods."""
    found = manifests()
    cluster = found["RayCluster"]["spec"]
    for owner in (found["Deployment"]["spec"], cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield owner["template"]["spec"]


def environments() -> Iterator[dict[str, str]]:
    """What each container of ours is given, values from elsewhere as "elsewhere"."""
    for service in compose()["services"].values():
        if service["image"].startswith("prunefront/"):
            yield service["environment"]
    for pod in pods():
        for container in pod["containers"]:
            yield {each["name"]: each.get("value", "elsewhere") for each in container["env"]}


def test_compose_is_of_the_schema_of_its_specification() -> None:
    assert faults(compose(), schema("compose-spec.json")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_manifests_are_of_the_schemas_of_kubernetes_and_kuberay(kind: str) -> None:
    assert set(manifests()) == set(KINDS)
    assert faults(manifests()[kind], of_kubernetes(kind)) == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ["spec", "template", "spec", "containers", 0]),
        ("RayCluster", ["spec", "headGroupSpec"]),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "template", "spec", "volumes", 0]),
        ("Service", ["spec", "ports", 0]),
    ],
)
def test_a_field_that_nobody_knows_is_found_by_the_schemas(kind: str, path: list[Any]) -> None:
    manifest = at = manifests()[kind]
    for step in path:
        at = at[step]
    at["imaage"] = "x"
    assert len(faults(manifest, of_kubernetes(kind))) == 1


def test_secrets_come_from_elsewhere() -> None:
    for environment in environments():
        assert environment["RAY_AUTH_MODE"] == "token"
        assert re.fullmatch(r"elsewhere|\$\{PRUNEFRONT_RAY_TOKEN:\?.*\}", environment["RAY_AUTH_TOKEN"])
        assert not re.search(r"://[^@/]*:[^@/]*@", environment.get("PRUNEFRONT_DATABASE", ""))
    passwords = re.findall(r"PASSWORD: (.*)", COMPOSE)
    assert len(passwords) == 2
    assert all(value.startswith("${PRUNEFRONT_DATABASE_PASSWORD:?") for value in passwords)
    ignored = subprocess.run(["git", "check-ignore", "docker/.env"], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()


def test_variables_of_ours_are_settings() -> None:
    known = {f"PRUNEFRONT_{name.upper()}" for name in Settings.model_fields}
    given = {name for environment in environments() for name in environment}
    in_images = {
        each.value.partition("=")[0]
        for image in FOLDER.glob("*.Dockerfile")
        for each in instructions(image)
        if each.name == "ENV"
    }
    assert {name for name in given | in_images if name.startswith("PRUNEFRONT_")} <= known


def test_the_service_alone_is_reached_from_outside_and_by_this_machine_alone() -> None:
    services, networks = compose()["services"], compose()["networks"]
    assert {name: each["ports"] for name, each in services.items() if "ports" in each} == {
        "service": ["127.0.0.1:8321:8321"]
    }
    open_ones = {name for name, each in networks.items() if not each.get("internal")}
    assert [name for name, each in services.items() if open_ones & set(each["networks"])] == ["service"]
    assert "type" not in manifests()["Service"]["spec"]  # reached within the cluster
    assert {each["targetPort"] for each in manifests()["Service"]["spec"]["ports"]} == {"http"}


def test_no_container_of_ours_may_do_more_than_its_user() -> None:
    for service in compose()["services"].values():
        if service["image"].startswith("prunefront/"):
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
    for pod in pods():
        assert pod["securityContext"]["runAsUser"] == 10001
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_images_are_those_that_the_dockerfiles_make() -> None:
    made = {
        re.findall(r"-t (\S+) \.", path.read_text())[0]: path.name for path in FOLDER.glob("*.Dockerfile")
    }
    used = [each["image"] for each in compose()["services"].values()]
    used += [container["image"] for pod in pods() for container in pod["containers"]]
    assert {image for image in used if image.startswith("prunefront/")} <= set(made)
    for service in compose()["services"].values():
        if "build" in service:
            assert service["build"]["dockerfile"] == f"docker/{made[service['image']]}"
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    assert {image.partition(":")[2] for image in made} == {version}


def test_the_heads_commands_and_parameters_are_those_of_ray() -> None:
    head = compose()["services"]["ray-head"]
    assert head["entrypoint"] == ["ray"]
    start, *words = head["command"]
    commands = ray_commands()
    given = commands[start].make_context(start, words).params
    assert (given["head"], given["port"], given["num_cpus"], given["block"]) == (True, 6379, 0, True)
    parameters = manifests()["RayCluster"]["spec"]["headGroupSpec"]["rayStartParams"]
    words = ["--head", *(f"--{name}={value}" for name, value in parameters.items())]
    given = commands["start"].make_context("start", words).params
    assert (given["num_cpus"], given["include_dashboard"]) == (0, False)
    _, *check = head["healthcheck"]["test"]
    assert check[:2] == ["ray", "health-check"]
    assert (
        commands["health-check"].make_context("health-check", check[2:]).params["address"] == "ray-head:6379"
    )
    assert {each.get("PRUNEFRONT_RAY_ADDRESS") for each in environments()} == {
        "ray-head:6379",
        "prunefront-head-svc:6379",
        None,
    }


def test_the_cluster_has_the_ray_that_is_locked() -> None:
    (locked,) = re.findall(r"^ray==(.*)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert manifests()["RayCluster"]["spec"]["rayVersion"] == locked


def test_the_services_arguments_are_those_of_serve() -> None:
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    serve = typer.main.get_command(app).commands["serve"]
    assert serve.make_context("serve", compose()["services"]["service"]["command"]).params["jobs"] == 2
    given = serve.make_context("serve", container["args"]).params
    assert given["host_name"] == [manifests()["Service"]["metadata"]["name"]]


def test_probes_call_the_service_by_a_name_that_it_answers_to() -> None:
    """Unless told otherwise Kubernetes calls it by the address of its pod."""
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    for probe in ("livenessProbe", "readinessProbe"):
        (header,) = container[probe]["httpGet"]["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in OWN_NAMES
