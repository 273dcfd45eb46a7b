"""What runs Parley in containers: the Containerfile, compose.yaml and the manifests for Kubernetes are valid by the
schemas of those who read them, name files and settings that there are, and say the same as the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pathspec import PathSpec

from server.config.loading import load
from server.config.settings import Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.30"  # the oldest that has all the fields
SECRETS = {"database_url": "postgresql://db/parley", "redis_url": "redis://cache", "jwt_key": "k" * 32}
COMMANDS = ("serve", "migrate", "purge")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "containers" / "kubernetes.yaml").read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [one for one in manifests() if one["kind"] == kind]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The specification of every pod, by the name of what makes it."""
    jobs = {"parley-migrate": of_kind("Job"), "parley": of_kind("Deployment")}
    found = {name: one["spec"]["template"]["spec"] for name, one in jobs.items()}
    return {**found, "parley-purge": of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]}


def settings(environ: dict[str, str]) -> Settings:
    """What our own parser makes of it. Secrets come from files, here and there."""
    return load({**environ, **{f"PARLEY_{name.upper()}": value for name, value in SECRETS.items()}})


@pytest.mark.services  # a process of its own
def test_compose_by_its_schema() -> None:
    """The file is one by the Compose Specification, whose schema check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.services  # a process of its own
def test_compose_as_podman_reads_it(tmp_path: Path) -> None:
    """`podman-compose config` resolves it, with the profile of tools and without; podman itself is not needed."""
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    podman.chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "podman_compose",
        "--podman-path",
        str(podman),
        "--file",
        str(ROOT / "compose.yaml"),
    ]
    for profile in ([], ["--profile", "tools"]):
        done = subprocess.run([*command, *profile, "config"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        read = yaml.safe_load(done.stdout)
        assert {"postgres", "valkey", "s3", "migrate", "parley1", "parley2", "haproxy"} <= read["services"].keys()
        environ = read["services"]["parley2"]["environment"]
        assert (environ["PARLEY_INSTANCE"], environ["PARLEY_WEB"]) == ("parley2", "on")


def test_compose_names_what_there_is() -> None:
    """Files that are mounted are here; networks, volumes and services exist; our settings are settings; and a stop
    leaves time for the drain."""
    found = compose()
    services = found["services"]
    for name, service in services.items():
        for mounted in service.get("volumes", ()):
            source = mounted.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in found["volumes"], (name, source)
        assert set(service.get("networks", ())) <= found["networks"].keys()
        assert set(service.get("depends_on", ())) <= services.keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    for name in ("migrate", "parley1", "parley2", "purge"):
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
        assert services[name].get("command", ["serve"])[0] in COMMANDS
        ours = {key: value for key, value in services[name]["environment"].items() if key.startswith("PARLEY_")}
        read = settings(ours)
    assert read.web and seconds(services["parley1"]["stop_grace_period"]) > read.drain_seconds + read.shutdown_timeout


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_no_secret_is_in_a_file() -> None:
    """Secrets are made at random, into a volume: in no environment, on no command line."""
    for name, service in compose()["services"].items():
        environ = service.get("environment", {})
        secret = [key for key in environ if re.search(r"PASSWORD|SECRET|KEY|TOKEN|DATABASE_URL", key)]
        assert all(key.endswith(("_FILE", "_KEY_FILE")) for key in secret), name
    for name, pod in pods().items():
        for container in pod["containers"]:
            given = {one["name"] for one in container["env"]} | of_kind("ConfigMap")["data"].keys()
            assert not {f"PARLEY_{one.upper()}" for one in SECRETS} & given, name


@pytest.mark.services  # a process of its own
def test_the_secrets_are_made_once(tmp_path: Path) -> None:
    """containers/secrets.sh: what instances read is good for them, no other user may read it, and a second run changes
    nothing."""
    script = (
        (ROOT / "containers" / "secrets.sh").read_text().replace("/secrets", str(tmp_path)).replace("chown", "true")
    )
    for _ in range(2):
        subprocess.run(["sh", "-c", script], check=True, cwd=tmp_path)
        read = load({"CREDENTIALS_DIRECTORY": str(tmp_path / "parley"), "PARLEY_REGISTRATION": "closed"})
        made = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    password = (tmp_path / "postgres_password").read_text()
    assert f":{password}@postgres/parley" in read.database_url and len(password) == 48
    assert {path: path.read_text() for path in made} == made and len(read.jwt_key) >= 64
    assert not any(path.stat().st_mode & 0o077 for path in made if path.name != "done")


def test_the_proxy_of_compose(tmp_path: Path) -> None:
    """containers/haproxy.cfg is the tested file for machines, but for addresses and names; and HAProxy reads it."""

    def lines(file: str) -> list[str]:
        kept: list[str] = []
        own = False
        for line in (ROOT / file).read_text().splitlines():
            if line.strip() in ("# own", "# as there") or line.startswith("# own:"):
                own = "own" in line
            elif line.strip() and not line.strip().startswith("#") and not own:
                kept.append(line.strip())
        return kept

    theirs = [line for line in lines("systemd/proxies/haproxy.cfg") if not line.startswith(("bind ", "server "))]
    assert lines("containers/haproxy.cfg") == theirs
    program = shutil.which("haproxy")
    if program is None:
        assert os.environ.get("CI") != "true", "haproxy is not installed"
        pytest.skip("haproxy is not installed: the file is only compared")
    done = subprocess.run([program, "-c", "-f", ROOT / "containers" / "haproxy.cfg"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kubernetes_by_its_schemas() -> None:
    """Each manifest is what Kubernetes takes, with no field that it does not know."""
    for one in manifests():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_kubernetes_says_what_the_code_does() -> None:
    """Settings are settings; what selects pods selects those; the time to stop is enough for all that is done in it."""
    data = of_kind("ConfigMap")["data"]
    read = settings(data)
    deployment = of_kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert of_kind(kind)["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
    pod = pods()["parley"]
    [serving] = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in serving["ports"]}
    assert read.listen == f"0.0.0.0:{ports['http']}"
    wait = serving["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > wait + read.drain_seconds + read.shutdown_timeout
    own = {one["name"]: one.get("value", "pod") for one in serving["env"]}
    settings(
        {**data, **{name: value.replace("$(POD_IP)", "10.0.0.7") for name, value in own.items() if "PARLEY" in name}}
    )
    assert serving["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    for each in pods().values():
        [container] = each["containers"]
        assert container["args"][0] in COMMANDS and each["securityContext"]["runAsUser"] == 10001
        assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_containerfile() -> None:
    """It serves as a user of its own, in a second stage; its health check is a program, and asks where it listens."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert stages == ["${BUILD_BASE}", "${BASE}"]
    last = text[text.rindex("FROM ") :]
    assert "USER 10001:10001" in last and "STOPSIGNAL SIGTERM" in last and 'ENTRYPOINT ["parley"]' in last
    assert not re.search(r"apt-get|pip install|\bgcc\b|\bgit\b", last)
    [check] = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", last, re.MULTILINE)
    program = json.loads(check)
    assert program[:2] == ["python3", "-c"]
    compile(program[2], "HEALTHCHECK", "exec")
    [listen] = re.findall(r"PARLEY_LISTEN=(\S+)", last)
    assert listen.rpartition(":")[2] == "5000" and "5000" in program[2]


def test_the_context_has_every_file() -> None:
    """.dockerignore names nothing that git tracks: with a file missing the build would call itself changed."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    anchored = [line if line.startswith("**/") else f"/{line}" for line in patterns if line]
    assert not list(PathSpec.from_lines("gitignore", anchored).match_files(tracked))
